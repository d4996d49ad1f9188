"""Tests of what providers are asked about earlier calls: their usage, their cancellation."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from streamguard_core import (
    Attempt,
    Cause,
    CloseState,
    CountSource,
    Instants,
    Receipt,
    Scope,
    StreamSession,
    Usage,
    UsageError,
    use_scope,
)
from streamguard_providers import (
    GuardedAsyncTransport,
    OpenAIProducer,
    ProviderError,
    cancel_response,
    look_up,
)
from streamguard_testing import Ending, LoopbackEngine

from .scripted_server import Answer, ScriptedServer, chunked, head, scripted
from .wire import token

KEY = "sk-very-secret"
RESPONSE = {
    "id": "resp_1",
    "status": "completed",
    "output": [{"content": [{"text": "nobody's business"}]}],
    "usage": {
        "input_tokens": 36,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 87,
        "output_tokens_details": {"reasoning_tokens": 7},
        "total_tokens": 123,
    },
}
GENERATION = {
    "data": {
        "id": "gen-1",
        "app_id": 12345,
        "user_agent": "somebody",
        "cancelled": True,
        "tokens_prompt": 10,
        "tokens_completion": 25,
        "native_tokens_prompt": 11,
        "native_tokens_completion": 27,
        "native_tokens_reasoning": 5,
        "native_tokens_cached": 3,
    }
}


def answer(said: object, status: str = "200 OK") -> Answer:
    """A plain JSON response, after which the connection is closed."""
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    head = f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    return Answer(head.encode() + body, then="close")


def url(server: ScriptedServer) -> str:
    """Where the scripted API is."""
    return f"http://127.0.0.1:{server.port}/v1"


def numbers(usage: Usage | None) -> dict[str, int | None]:
    """The numbers of a usage, each of them final."""
    assert usage is not None
    counts = {
        name: getattr(usage, name) for name in ("input", "output", "cached_input", "reasoning")
    }
    known = [count for count in counts.values() if count.known]
    assert {count.source for count in known} <= {CountSource.PROVIDER_FINAL}
    return {name: count.value for name, count in counts.items()}


def receipt(*ids: str | None, request_id: str | None = None) -> Receipt:
    """A receipt of a stream with these calls."""
    return Receipt(
        stream_id="s",
        cause=Cause.CLIENT_DISCONNECT,
        party=None,
        produced=0,
        committed=0,
        consumed=0,
        late=0,
        close=CloseState.CONFIRMED,
        instants=Instants(opened_ns=0),
        opened_us=0,
        sealed_us=0,
        request_id=request_id,
        attempts=tuple(Attempt(request_id=one) for one in ids),
    )


async def test_a_response_is_looked_up() -> None:
    """OpenAI says what a stored response has used, by its id; the numbers are final."""
    async with scripted(answer(RESPONSE)) as server:
        usage = await look_up("resp_1", api_key=KEY, base_url=url(server))
    assert numbers(usage) == {"input": 36, "output": 87, "cached_input": 4, "reasoning": 7}
    assert usage is not None
    assert usage.reported == RESPONSE["usage"]
    (request,) = server.requests
    assert request.startswith(b"GET /v1/responses/resp_1 HTTP/1.1\r\n")
    assert f"bearer {KEY}".encode() in request.lower()


async def test_a_generation_is_looked_up() -> None:
    """OpenRouter bills native tokens, so these are what is returned; whose application it was is not kept."""
    async with scripted(answer(GENERATION)) as server:
        usage = await look_up("gen-1", api_key=KEY, base_url=url(server))
    assert numbers(usage) == {"input": 11, "output": 27, "cached_input": 3, "reasoning": 5}
    assert usage is not None
    assert "user_agent" not in (usage.reported or {})
    assert server.requests[0].startswith(b"GET /v1/generation?id=gen-1 HTTP/1.1\r\n")


async def test_what_is_not_known_yet_is_asked_again() -> None:
    """A generation is written down a moment after its end, and a response ends in the background."""
    late = answer({"error": {"message": "not found"}}, "404 Not Found")
    async with scripted(late, answer({"data": None}), answer(GENERATION)) as server:
        usage = await look_up("gen-1", api_key=KEY, base_url=url(server))
    assert numbers(usage)["output"] == 27
    running = answer({"id": "resp_1", "status": "in_progress", "usage": None})
    async with scripted(running, answer(RESPONSE)) as server:
        usage = await look_up("resp_1", api_key=KEY, base_url=url(server))
    assert numbers(usage)["output"] == 87


async def test_what_stays_unknown_is_none() -> None:
    """Nothing said in time, or nothing at all (as of some that were cancelled): unknown, not zero (G12)."""
    running = answer({"id": "resp_1", "status": "queued"})
    async with scripted(running) as server:
        assert await look_up("resp_1", api_key=KEY, base_url=url(server), seconds=0) is None
    for said, name in (
        ({"id": "resp_1", "status": "cancelled", "usage": None}, "resp_1"),
        ({"data": {"id": "gen-1", "tokens_prompt": 10, "native_tokens_prompt": None}}, "gen-1"),
    ):
        async with scripted(answer(said)) as server:
            assert await look_up(name, api_key=KEY, base_url=url(server)) is None


async def test_an_explicit_zero_stays_zero() -> None:
    """A class that is zero is, one that is absent is not (P30)."""
    said = {"status": "incomplete", "usage": {"input_tokens": 3, "output_tokens": 0}}
    async with scripted(answer(said)) as server:
        usage = await look_up("resp_1", api_key=KEY, base_url=url(server))
    assert numbers(usage) == {"input": 3, "output": 0, "cached_input": None, "reasoning": None}


@pytest.mark.parametrize(
    "call",
    [
        "resp_1",
        Attempt(request_id="resp_1"),
        receipt(None, "resp_0", "resp_1", "req_9"),
        receipt(request_id="resp_1"),
    ],
    ids=["id", "attempt", "receipt", "receipt without attempts"],
)
async def test_receipts_and_attempts_know_their_calls(call: Any) -> None:
    """The last call of a receipt that has an id a provider answers for is the one that is asked about."""
    async with scripted(answer(RESPONSE)) as server:
        assert await look_up(call, api_key=KEY, base_url=url(server)) is not None
    assert b"/responses/resp_1 " in server.requests[0]


@pytest.mark.parametrize("call", ["req_1", "resp_/../../keys", "", receipt("req_1"), receipt()])
async def test_an_id_nobody_answers_for_is_refused(call: Any) -> None:
    """Nothing is asked, and what goes into the URL is an id and nothing else."""
    with pytest.raises(UsageError, match="id"):
        await look_up(call, api_key=KEY, base_url="http://127.0.0.1:9/v1")


async def test_a_background_response_is_cancelled() -> None:
    """By its id; the answer's usage is returned where it has one."""
    for status, output in (("cancelled", 87), ("in_progress", None)):
        async with scripted(answer({**RESPONSE, "status": status})) as server:
            usage = await cancel_response("resp_1", api_key=KEY, base_url=url(server))
        assert (usage and usage.output.value) == output
        assert server.requests[0].startswith(b"POST /v1/responses/resp_1/cancel HTTP/1.1\r\n")
    with pytest.raises(UsageError, match="id"):
        await cancel_response("resp_1/cancel?", api_key=KEY)


ASKING: dict[str, Callable[..., Awaitable[object]]] = {
    "look_up": look_up,
    "cancel_response": cancel_response,
}


@pytest.mark.parametrize("name", ASKING)
async def test_a_refusal_is_the_providers_error(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With its status and words; never with the key."""
    said = {"error": {"type": "invalid_request_error", "message": f"no such key: {KEY}"}}
    with caplog.at_level(logging.DEBUG, "streamguard"):
        async with scripted(answer(said, "401 Unauthorized")) as server:
            with pytest.raises(ProviderError) as caught:
                await ASKING[name]("resp_1", api_key=KEY, base_url=url(server))
    assert (caught.value.status, caught.value.retryable) == (401, False)
    assert KEY not in f"{caught.value!s} {caught.value!r} {caplog.text}"


async def test_an_answer_that_is_none_is_an_error() -> None:
    """A page of a gateway is no usage; nor is one that cannot be reached."""
    async with scripted(answer(b"<html>")) as server:
        with pytest.raises(ProviderError, match="refused to answer"):
            await look_up("resp_1", api_key=KEY, base_url=url(server))
    async with scripted() as server:
        gone = url(server)
    with pytest.raises(ProviderError, match="could not be reached") as caught:
        await look_up("resp_1", api_key=KEY, base_url=gone)
    assert caught.value.retryable


async def test_a_body_without_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: what is too large is cut, and then no JSON."""
    monkeypatch.setattr("streamguard_providers.lookup._MAX_BODY", 1000)
    endless = b"HTTP/1.1 200 OK\r\ncontent-length: 900000\r\n\r\n" + b"[" * 100_000
    async with scripted(Answer(endless)) as server:
        with pytest.raises(ProviderError, match="refused to answer"):
            await look_up("resp_1", api_key=KEY, base_url=url(server))


async def test_a_client_of_the_callers_is_used_and_stays_open(library: Any) -> None:
    """Also one whose transport governs its calls: the cutoff is why it is asked, and does not cut it."""
    transport = GuardedAsyncTransport() if library is httpx else GuardedAsyncTransport.httpx2()
    scope = Scope()
    scope.disconnected("left")
    async with (
        library.AsyncClient(transport=transport) as client,
        scripted(answer(RESPONSE)) as server,
    ):
        with use_scope(scope):
            usage = await look_up("resp_1", api_key=KEY, base_url=url(server), client=client)
        assert not client.is_closed
    assert numbers(usage)["output"] == 87


async def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each provider's own variable, unless a key is given."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one")
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-two")
    for name, said, key in (("resp_1", RESPONSE, b"sk-one"), ("gen-1", GENERATION, b"sk-two")):
        async with scripted(answer(said)) as server:
            await look_up(name, base_url=url(server), headers={"x-title": "mine"})
        assert key in server.requests[0]
        assert b"x-title: mine" in server.requests[0].lower()


async def test_a_receipt_of_openrouter_leads_to_its_usage() -> None:
    """The id that OpenRouter gives a generation is on the receipt of a stream that was cut, and is asked for."""
    cut = Answer(head("text/event-stream", "x-generation-id: gen-1") + chunked(token("a")))
    async with scripted(cut, answer(GENERATION)) as server:
        producer = OpenAIProducer(
            "m", prompt="p", base_url=url(server), api_key=KEY, provider="openrouter", retries=0
        )
        async with StreamSession(producer) as session:
            async for _ in session:
                break
        sealed = await session.receipt()
        assert not sealed.usage.output.known
        usage = await look_up(sealed, api_key=KEY, base_url=url(server))
    assert (sealed.request_id, numbers(usage)["output"]) == ("gen-1", 27)


async def in_the_background(client: httpx.AsyncClient, engine: LoopbackEngine, most: int) -> str:
    """Begin a response in the background, read its id, and leave; the engine goes on."""
    body = {"model": "m", "input": "p", "background": True, "stream": True}
    async with client.stream(
        "POST", f"{engine.url}/v1/responses", json=body | {"max_output_tokens": most}
    ) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: ") and "response" in (said := json.loads(line[6:])):
                return str(said["response"]["id"])
    raise AssertionError("the engine said no id")


async def test_closing_does_not_end_what_is_in_the_background_and_cancelling_does() -> None:
    """The engine generates on after its reader has left, until it is told by the id; it says no usage then."""
    async with LoopbackEngine(tokens_per_second=50) as engine, httpx.AsyncClient() as client:
        name = await in_the_background(client, engine, 5000)
        seen = engine.requests[0].generated
        await engine.wait_until(lambda: engine.requests[0].generated > seen + 3)
        assert not engine.requests[0].ran_to_end
        for _ in range(2):
            assert await cancel_response(name, base_url=f"{engine.url}/v1") is None
        await engine.wait_idle()
        assert engine.requests[0].ending is Ending.CANCELLED
        assert await look_up(name, base_url=f"{engine.url}/v1") is None


async def test_what_was_left_in_the_background_is_looked_up() -> None:
    """It was generated to its end, and is billed; its usage is waited for, and is what the engine counted."""
    async with LoopbackEngine(tokens_per_second=50) as engine, httpx.AsyncClient() as client:
        name = await in_the_background(client, engine, 20)
        usage = await look_up(name, base_url=f"{engine.url}/v1")
        counted = engine.requests[0]
    assert counted.generated == 20
    assert numbers(usage)["output"] == 20
    assert numbers(usage)["input"] == counted.prompt_tokens
