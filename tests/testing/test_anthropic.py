"""The engine speaks Anthropic's messages: read with httpx, and with Anthropic's own client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from streamguard_testing import Ending, Fault, LoopbackEngine, NGramModel, Usage

TEXT = "".join(NGramModel().generate(9, seed=5))
BODY: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "Tell me about the river."}],
}
PATH = "/v1/messages"


def events(body: bytes) -> list[dict[str, Any]]:
    """Return the payloads of a stream whose every event is named after its payload's type."""
    found = []
    for block in body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        payload = json.loads(data.removeprefix("data: "))
        assert name == f"event: {payload['type']}"
        found.append(payload)
    return found


async def ask(http: httpx.AsyncClient, fault: Fault | None = None, **rest: Any) -> httpx.Response:
    """Ask for a message."""
    return await http.post(PATH, json=BODY | rest, headers=fault.to_header() if fault else {})


async def test_events(http: httpx.AsyncClient) -> None:
    """The stream is message_start, a block with a delta a token, message_delta, message_stop."""
    response = await ask(http, stream=True)
    start, opened, ping, *deltas, closed, delta, stop = events(response.content)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert start["message"]["usage"]["input_tokens"] == 6
    assert start["message"]["usage"]["output_tokens"] == 1, "a placeholder, not a count"
    assert opened["content_block"] == {"type": "text", "text": ""}
    assert (ping["type"], closed["type"], stop["type"]) == (
        "ping",
        "content_block_stop",
        "message_stop",
    )
    assert {event["index"] for event in (opened, *deltas, closed)} == {0}
    assert "".join(event["delta"]["text"] for event in deltas) == TEXT
    assert len(deltas) == 9
    assert delta["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert delta["usage"] == {"output_tokens": 9}


async def test_whole(engine: LoopbackEngine, http: httpx.AsyncClient) -> None:
    """Without a stream it is one message with its usage."""
    said = (await ask(http, max_tokens=200)).json()
    wanted = "".join(NGramModel().generate(200, seed=5))
    assert said["content"] == [{"type": "text", "text": wanted}]
    assert (said["stop_reason"], said["usage"]["output_tokens"]) == ("max_tokens", 200)
    (record,) = engine.requests
    assert (record.dialect, record.ending) == ("anthropic.messages", Ending.COMPLETED)


async def test_own_end() -> None:
    """A model that comes to its own end says end_turn."""
    async with LoopbackEngine(answer_tokens=3) as engine, httpx.AsyncClient() as http:
        said = (await http.post(engine.url + PATH, json=BODY)).json()
        assert (said["stop_reason"], said["usage"]["output_tokens"]) == ("end_turn", 3)


async def test_system_prompt_is_counted(http: httpx.AsyncClient) -> None:
    """The system prompt, a text or blocks, is a part of the input."""
    for system in ("one two", [{"type": "text", "text": "one two"}]):
        said = (await ask(http, system=system)).json()
        assert said["usage"]["input_tokens"] == 8


async def test_usage_that_never_comes(http: httpx.AsyncClient) -> None:
    """Without usage message_delta has none; the placeholder of message_start is always there."""
    response = await ask(http, Fault(usage=Usage.NEVER), stream=True)
    start, *_, delta, _ = events(response.content)
    assert "usage" not in delta
    assert start["message"]["usage"]["output_tokens"] == 1


async def test_error_inside_a_200(http: httpx.AsyncClient) -> None:
    """After so many tokens an error event comes, and no message_stop."""
    response = await ask(http, Fault(error_after=2, error_message="too bad"), stream=True)
    *_, delta, error = events(response.content)
    assert response.status_code == 200
    assert delta["type"] == "content_block_delta"
    assert error["error"] == {"type": "api_error", "message": "too bad"}


@pytest.mark.parametrize(
    ("status", "kind"), [(429, "rate_limit_error"), (529, "overloaded_error"), (500, "api_error")]
)
async def test_error_bodies(http: httpx.AsyncClient, status: int, kind: str) -> None:
    """An error status comes with the provider's words for it."""
    response = await ask(http, Fault(status=status, error_message="no"))
    assert response.status_code == status
    said = response.json()
    assert (said["type"], said["error"]) == ("error", {"type": kind, "message": "no"})


async def test_cut_has_no_end(http: httpx.AsyncClient) -> None:
    """A stream that is cut off has neither message_delta nor message_stop."""
    response = await ask(http, Fault(cut_after=9), stream=True)
    assert events(response.content)[-1]["type"] == "content_block_delta"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"max_tokens": None}, "'max_tokens' must be there"),
        ({"max_tokens": 0}, "'max_tokens' must be 1 or more"),
        ({"messages": []}, "must not be empty"),
        ({"system": 1}, "'system'"),
        (
            {"messages": [*BODY["messages"], {"role": "assistant", "content": "It "}]},
            "trailing whitespace",
        ),
    ],
)
async def test_bad_requests(
    engine: LoopbackEngine, http: httpx.AsyncClient, body: dict[str, Any], message: str
) -> None:
    """A request that the provider would refuse is refused with a 400 in its words."""
    response = await ask(http, **body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert message in error["message"]
    assert engine.requests == ()


async def test_anthropic_client_reads_a_stream(engine: LoopbackEngine) -> None:
    """Anthropic's own client understands the stream, its usage included."""
    anthropic = pytest.importorskip("anthropic")
    async with (
        anthropic.AsyncAnthropic(base_url=engine.url, api_key="x", max_retries=0) as client,
        client.messages.stream(**BODY) as stream,
    ):
        assert "".join([text async for text in stream.text_stream]) == TEXT
        message = await stream.get_final_message()
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 9)
    assert message.usage.input_tokens == 6


async def test_anthropic_client_reads_an_answer_and_errors(engine: LoopbackEngine) -> None:
    """Anthropic's own client understands an answer in one piece, and both kinds of errors."""
    anthropic = pytest.importorskip("anthropic")
    async with anthropic.AsyncAnthropic(base_url=engine.url, api_key="x", max_retries=0) as client:
        message = await client.messages.create(**BODY)
        assert message.content[0].text == TEXT
        with pytest.raises(anthropic.RateLimitError):
            await client.messages.create(**BODY, extra_headers=Fault(status=429).to_header())
        stream = await client.messages.create(
            **BODY, stream=True, extra_headers=Fault(error_after=1).to_header()
        )
        with pytest.raises(anthropic.APIStatusError, match="told to fail"):
            async for _ in stream:
                pass
