"""Errors inside a 200 come in every shape that providers and gateways use."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from streamguard_testing import ErrorShape, Fault, LoopbackEngine

MESSAGES = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "m", "messages": MESSAGES, "stream": True},
    "/v1/messages": {"model": "m", "messages": MESSAGES, "max_tokens": 9, "stream": True},
    "/v1/responses": {"model": "m", "input": "hi", "stream": True},
    "/v1beta/models/m:streamGenerateContent?alt=sse": {"contents": [{"parts": [{"text": "hi"}]}]},
    "/v1beta/models/m:streamGenerateContent": {"contents": [{"parts": [{"text": "hi"}]}]},
    "/api/chat": {"model": "m", "messages": MESSAGES},
}
EVENTS = [path for path in BODIES if path.startswith("/v1") and not path.endswith("Content")]
ERROR = {"message": "too bad", "type": "rate_limit_error", "param": None, "code": None}


async def _ask(
    http: httpx.AsyncClient, path: str, shape: ErrorShape, after: int = 2
) -> httpx.Response:
    fault = Fault(error_after=after, error_shape=shape, error_message="too bad", error_status=429)
    return await http.post(path, json=BODIES[path], headers=fault.to_header())


async def _last(http: httpx.AsyncClient, path: str, shape: ErrorShape) -> list[str]:
    """Return the lines of the last event."""
    response = await _ask(http, path, shape)
    assert response.status_code == 200
    return response.text.replace("\r\n", "\n").rstrip("\n").split("\n\n")[-1].split("\n")


@pytest.mark.parametrize("path", EVENTS)
async def test_nested(http: httpx.AsyncClient, path: str) -> None:
    """`nested` is an error within the data."""
    (line,) = await _last(http, path, ErrorShape.NESTED)
    assert json.loads(line.removeprefix("data: ")) == {"error": ERROR}


@pytest.mark.parametrize("path", EVENTS)
async def test_event(http: httpx.AsyncClient, path: str) -> None:
    """`event` is the same, in an event named error."""
    name, data = await _last(http, path, ErrorShape.EVENT)
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: ")) == {"error": ERROR}


@pytest.mark.parametrize("path", EVENTS)
async def test_flat(http: httpx.AsyncClient, path: str) -> None:
    """`flat` has type, code and message at the top."""
    (line,) = await _last(http, path, ErrorShape.FLAT)
    assert json.loads(line.removeprefix("data: ")) == {
        "type": "error",
        "code": "rate_limit_exceeded",
        "message": "too bad",
        "param": None,
    }


@pytest.mark.parametrize("path", EVENTS)
async def test_failed(http: httpx.AsyncClient, path: str) -> None:
    """`failed` is the terminal event of a response that failed, with no error before it."""
    name, data = await _last(http, path, ErrorShape.FAILED)
    assert name == "event: response.failed"
    response = json.loads(data.removeprefix("data: "))["response"]
    assert response["error"] == {"code": "rate_limit_exceeded", "message": "too bad"}
    assert "event: error" not in (await _ask(http, path, ErrorShape.FAILED)).text


@pytest.mark.parametrize("path", EVENTS)
async def test_text(http: httpx.AsyncClient, path: str) -> None:
    """`text` has a text where others have an object."""
    (line,) = await _last(http, path, ErrorShape.TEXT)
    assert json.loads(line.removeprefix("data: ")) == {"error": "too bad"}


@pytest.mark.parametrize("path", EVENTS)
async def test_beside(http: httpx.AsyncClient, path: str) -> None:
    """`beside` puts error, choices and usage into one chunk, and [DONE] after it."""
    response = await _ask(http, path, ErrorShape.BESIDE)
    *_, chunk, done = response.text.replace("\r\n", "\n").rstrip("\n").split("\n\n")
    said = json.loads(chunk.removeprefix("data: "))
    assert said["error"] == {"code": 429, "message": "too bad"}
    assert said["choices"][0]["finish_reason"] == "error"
    assert said["usage"]["completion_tokens"] == 2
    assert done == "data: [DONE]"


@pytest.mark.parametrize("path", EVENTS)
async def test_field(http: httpx.AsyncClient, path: str) -> None:
    """`field` is a field of its own, without any data."""
    (line,) = await _last(http, path, ErrorShape.FIELD)
    assert json.loads(line.removeprefix("error: ")) == ERROR | {"code": 429}


@pytest.mark.parametrize("path", BODIES)
async def test_body(http: httpx.AsyncClient, path: str) -> None:
    """`body` is plain JSON: instead of a stream, or as a line of it once tokens were sent."""
    instead = await _ask(http, path, ErrorShape.BODY, after=0)
    assert (instead.status_code, instead.json()) == (200, {"error": ERROR})
    assert instead.headers["content-type"] == "application/json"
    later = await _ask(http, path, ErrorShape.BODY)
    last = later.text.rstrip("\n").split("\n")[-1]
    assert json.loads(last[last.index('{"error"') :]) == {"error": ERROR}
    assert len(later.text) > len(last)


async def test_shapes_without_events(http: httpx.AsyncClient) -> None:
    """Lines and arrays carry the shapes that are objects."""
    for shape, wanted in (
        (ErrorShape.NESTED, {"error": ERROR}),
        (ErrorShape.TEXT, {"error": "too bad"}),
    ):
        lines = await _ask(http, "/api/chat", shape)
        assert json.loads(lines.text.splitlines()[-1]) == wanted
        array = await _ask(http, "/v1beta/models/m:streamGenerateContent", shape)
        assert array.json()[-1] == wanted


@pytest.mark.parametrize(
    "shape", [ErrorShape.EVENT, ErrorShape.FAILED, ErrorShape.BESIDE, ErrorShape.FIELD]
)
@pytest.mark.parametrize("path", ["/api/chat", "/v1beta/models/m:streamGenerateContent"])
async def test_shapes_that_need_events_are_refused(
    engine: LoopbackEngine, http: httpx.AsyncClient, path: str, shape: ErrorShape
) -> None:
    """Where there are no events, shapes that are made of them are refused."""
    response = await _ask(http, path, shape)
    assert response.status_code == 400
    assert "needs server-sent events" in response.text
    assert engine.requests == ()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/messages", "overloaded_error"),
        ("/v1/chat/completions", "overloaded_error"),
        ("/v1beta/models/m:streamGenerateContent", "529"),
    ],
)
async def test_native_words(http: httpx.AsyncClient, path: str, words: str) -> None:
    """The status that an error would have had decides about its words."""
    fault = Fault(error_after=1, error_status=529)
    response = await http.post(path, json=BODIES[path], headers=fault.to_header())
    assert response.status_code == 200
    assert words in response.text


async def test_bodies_of_error_statuses(http: httpx.AsyncClient) -> None:
    """An error status has the shapes that are an object, and otherwise the provider's own."""
    path = "/v1/chat/completions"
    for shape, wanted in (
        (ErrorShape.TEXT, {"error": "no"}),
        (ErrorShape.EVENT, {"error": ERROR | {"message": "no"}}),
        (ErrorShape.NESTED, {"error": ERROR | {"message": "no"}}),
    ):
        fault = Fault(status=429, error_message="no", error_shape=shape)
        response = await http.post(path, json=BODIES[path], headers=fault.to_header())
        assert (response.status_code, response.json()) == (429, wanted)
    whole = BODIES[path] | {"stream": False}
    fault = Fault(error_after=2, error_status=503)
    assert (await http.post(path, json=whole, headers=fault.to_header())).status_code == 503
