"""Which dialect an endpoint speaks, by its path and by what it says its content is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from streamguard_providers.dialects import Dialect
from streamguard_providers.ollama_dialect import Ollama
from streamguard_providers.openai_chat import OpenAIChat
from streamguard_providers.stream_decoder import StreamDecoder

_DIALECTS: Final[tuple[tuple[str, Callable[[str], Dialect]], ...]] = (
    ("/chat/completions", OpenAIChat),
    ("/api/chat", Ollama),
    ("/api/generate", Ollama),
)
_STREAMS: Final[dict[str, Callable[[str], StreamDecoder]]] = {
    "text/event-stream": StreamDecoder.openai_chat,
    "application/x-ndjson": StreamDecoder.ollama,
}


def dialect_for(path: str, provider: str) -> Dialect | None:
    """The dialect of an endpoint, for an answer that is one document; None where we know none."""
    return next((make(provider) for end, make in _DIALECTS if path.endswith(end)), None)


def decoder_for(path: str, content_type: str, provider: str) -> StreamDecoder | None:
    """The decoder for a stream of that content type; None where we know none."""
    make = _STREAMS.get(content_type.partition(";")[0].strip())
    return None if make is None or dialect_for(path, provider) is None else make(provider)
