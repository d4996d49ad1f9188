"""Which dialect an endpoint speaks is known by its path."""

from __future__ import annotations

import pytest

from streamguard_providers.json_array import JSONArrayDecoder
from streamguard_providers.known import decoder_for, dialect_for, route_of
from streamguard_providers.ndjson import NDJSONDecoder
from streamguard_providers.sse import SSEDecoder

SSE = "text/event-stream; charset=utf-8"


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/chat/completions", "openai-chat"),
        ("/openai/deployments/x/chat/completions", "openai-chat"),
        ("/v1/completions", "openai-completions"),
        ("/v1/responses", "openai-responses"),
        ("/v1/messages", "anthropic"),
        ("/v1/projects/p/publishers/anthropic/models/c:streamRawPredict", "anthropic"),
        ("/v1/projects/p/publishers/mistralai/models/c:rawPredict", "openai-chat"),
        ("/v1/projects/p/publishers/google/models/g:streamGenerateContent", "gemini"),
        ("/api/chat", "ollama"),
        ("/v1/projects/p/publishers/unheard/models/c:rawPredict", None),
        ("/model/m/invoke", None),
        ("/", None),
    ],
)
def test_by_its_path(path: str, route: str | None) -> None:
    """The route's name and the dialect go together; an instance belongs to one response."""
    assert route_of(path) == route
    one, other = dialect_for(path, "somebody"), dialect_for(path, "somebody")
    assert (one is None) == (route is None)
    assert one is None or (one is not other and one.provider == "somebody")
    assert (decoder_for(path, SSE, "somebody") is None) == (route is None)


def test_the_framing_is_the_content_types() -> None:
    """Events, lines, the items of an array; a document has none."""
    events = decoder_for("/v1/chat/completions", SSE, "somebody")
    lines = decoder_for("/api/chat", "Application/x-ndjson", "somebody")
    assert events is not None
    assert lines is not None
    assert isinstance(events.framing, SSEDecoder)
    assert isinstance(lines.framing, NDJSONDecoder)
    assert decoder_for("/v1/messages", "application/json", "somebody") is None
    array = decoder_for("/v1beta/models/m:streamGenerateContent", "application/json", "somebody")
    assert array is not None
    array.feed(b"[")
    assert isinstance(array.framing, JSONArrayDecoder)
