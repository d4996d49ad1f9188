"""Which dialect an endpoint speaks, by its path and by what it says its content is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from streamguard_providers.anthropic_messages import Anthropic
from streamguard_providers.dialects import Dialect
from streamguard_providers.gemini import Gemini
from streamguard_providers.ndjson import NDJSONDecoder
from streamguard_providers.ollama_dialect import Ollama
from streamguard_providers.openai_chat import OpenAIChat
from streamguard_providers.openai_completions import OpenAICompletions
from streamguard_providers.openai_responses import OpenAIResponses
from streamguard_providers.sse import SSEDecoder
from streamguard_providers.stream_decoder import StreamDecoder

#: The end of a path, the dialect's name, and the dialect.
_ENDPOINTS: Final[tuple[tuple[str, str, Callable[[str], Dialect]], ...]] = (
    ("/chat/completions", "openai-chat", OpenAIChat),
    ("/completions", "openai-completions", OpenAICompletions),
    ("/responses", "openai-responses", OpenAIResponses),
    ("/messages", "anthropic", Anthropic),
    (":generateContent", "gemini", Gemini),
    (":streamGenerateContent", "gemini", Gemini),
    ("/api/chat", "ollama", Ollama),
    ("/api/generate", "ollama", Ollama),
)
#: Vertex AI passes its publishers' own formats through.
_RAW: Final = ("rawPredict", "streamRawPredict")
_PUBLISHERS: Final[tuple[tuple[str, str, Callable[[str], Dialect]], ...]] = (
    ("/publishers/anthropic/", "anthropic", Anthropic),
    ("/publishers/mistralai/", "openai-chat", OpenAIChat),
)
_LINES: Final = frozenset({"application/x-ndjson", "application/jsonl", "application/x-jsonlines"})
#: Answers with the items of one array, as they are made.
_ARRAY: Final = ":streamGenerateContent"


def route_of(path: str) -> str | None:
    """The name of the dialect of an endpoint; None where we know none."""
    found = _endpoint(path)
    return None if found is None else found[1]


def dialect_for(path: str, provider: str) -> Dialect | None:
    """The dialect of an endpoint; None where we know none."""
    found = _endpoint(path)
    return None if found is None else found[2](provider)


def decoder_for(path: str, content_type: str, provider: str) -> StreamDecoder | None:
    """The decoder for a stream of that content type; None where we know none, and for a document."""
    dialect = dialect_for(path, provider)
    kind = content_type.partition(";")[0].strip().lower()
    if dialect is None:
        return None
    if kind in _LINES:
        return StreamDecoder(dialect, NDJSONDecoder())
    if kind == "text/event-stream" or (kind == "application/json" and path.endswith(_ARRAY)):
        # A body that begins as a document or an array is seen to be one.
        return StreamDecoder(dialect, SSEDecoder())
    return None


def _endpoint(path: str) -> tuple[str, str, Callable[[str], Dialect]] | None:
    if path.endswith(_RAW):
        return next((each for each in _PUBLISHERS if each[0] in path), None)
    return next((each for each in _ENDPOINTS if path.endswith(each[0])), None)
