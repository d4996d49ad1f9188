"""Which dialect an endpoint speaks, by its path and by what it says its content is."""

from __future__ import annotations

from typing import Final

from streamguard_providers.detection import dialect_named
from streamguard_providers.dialects import Dialect
from streamguard_providers.ndjson import NDJSONDecoder
from streamguard_providers.sse import SSEDecoder
from streamguard_providers.stream_decoder import LINES, StreamDecoder

#: The end of a path, and the dialect's name.
_ENDPOINTS: Final[tuple[tuple[str, str], ...]] = (
    ("/chat/completions", "openai-chat"),
    ("/completions", "openai-completions"),
    ("/responses", "openai-responses"),
    ("/messages", "anthropic"),
    (":generateContent", "gemini"),
    (":streamGenerateContent", "gemini"),
    ("/api/chat", "ollama"),
    ("/api/generate", "ollama"),
)
#: Vertex AI passes its publishers' own formats through.
_RAW: Final = ("rawPredict", "streamRawPredict")
_PUBLISHERS: Final[tuple[tuple[str, str], ...]] = (
    ("/publishers/anthropic/", "anthropic"),
    ("/publishers/mistralai/", "openai-chat"),
)
#: Answers with the items of one array, as they are made.
_ARRAY: Final = ":streamGenerateContent"


def route_of(path: str) -> str | None:
    """The name of the dialect of an endpoint; None where we know none."""
    if path.endswith(_RAW):
        return next((name for place, name in _PUBLISHERS if place in path), None)
    return next((name for end, name in _ENDPOINTS if path.endswith(end)), None)


def dialect_for(path: str, provider: str) -> Dialect | None:
    """The dialect of an endpoint; None where we know none."""
    name = route_of(path)
    return None if name is None else dialect_named(name, provider)


def decoder_for(path: str, content_type: str, provider: str) -> StreamDecoder | None:
    """The decoder for a stream of that content type; None where we know none, and for a document."""
    dialect = dialect_for(path, provider)
    kind = content_type.partition(";")[0].strip().lower()
    if dialect is None:
        return None
    if kind in LINES:
        return StreamDecoder(dialect, NDJSONDecoder())
    if kind == "text/event-stream" or (kind == "application/json" and path.endswith(_ARRAY)):
        # A body that begins as a document or an array is seen to be one.
        return StreamDecoder(dialect, SSEDecoder())
    return None
