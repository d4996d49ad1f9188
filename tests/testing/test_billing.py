"""What a reader who leaves is billed for, and the lookup that tells it afterwards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from streamguard_testing import Billing, Ending, Fault, LoopbackEngine, RawClient

Ask = Callable[..., Awaitable[RawClient]]
LOOKUP = "/api/v1/generation"


async def _look_up(engine: LoopbackEngine, request_id: str) -> dict[str, Any]:
    async with httpx.AsyncClient() as http:
        response = await http.get(engine.url + LOOKUP, params={"id": request_id})
    assert response.status_code == 200
    found: dict[str, Any] = response.json()["data"]
    return found


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_full_bill(ask: Ask, how: str) -> None:
    """With `full`, generation goes on after the reader left, and all that was planned is billed."""
    async with LoopbackEngine(interval=0.002) as engine:
        fault = Fault(billing=Billing.FULL)
        client = await ask(engine, path="/v1/chat/completions", tokens=60, fault=fault)
        await client.read_until(3)
        client.leave(how)
        await engine.wait_until(lambda: engine.request("it").noticed_at is not None)
        early = engine.request("it")
        assert early.billed == 60
        record = await engine.request_ended("it")
        assert record.generated_after_noticed > 0
        assert (record.generated, record.billed, record.ran_to_end) == (60, 60, True)
        found = await _look_up(engine, "chatcmpl-it")
        assert (found["native_tokens_completion"], found["cancelled"]) == (60, True)


async def test_bill_stops(ask: Ask) -> None:
    """By default the bill ends with the generation, which ends when the reader leaves."""
    async with LoopbackEngine(interval=0.002) as engine:
        client = await ask(engine, path="/v1/chat/completions", tokens=5000)
        await client.read_until(3)
        client.leave()
        record = await engine.request_ended("it")
        assert 0 < record.billed == record.generated < 5000
        found = await _look_up(engine, "it")
        assert found["native_tokens_completion"] == record.generated
        assert (found["cancelled"], found["finish_reason"]) == (True, None)


async def test_lookup_of_a_whole_answer(http: httpx.AsyncClient) -> None:
    """The id that came with an answer finds what it used, once it is over."""
    body = {"model": "m", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 9}
    answer = await http.post("/v1/chat/completions", json=body)
    for name in (answer.json()["id"], answer.headers["x-generation-id"]):
        found = (await http.get(LOOKUP, params={"id": name})).json()["data"]
        assert found["id"] == answer.headers["x-engine-request-id"]
        assert (found["native_tokens_prompt"], found["native_tokens_completion"]) == (2, 9)
        assert (found["finish_reason"], found["cancelled"]) == ("length", False)


async def test_lookup_before_the_end(ask: Ask, http: httpx.AsyncClient) -> None:
    """A generation that is unknown, or not over, is not found; the lookup is a GET."""
    async with LoopbackEngine() as engine:
        client = await ask(engine, fault=Fault(stall_after=1))
        await client.read_until(1)
        for name in ("it", "other", ""):
            response = await http.get(engine.url + LOOKUP, params={"id": name})
            assert response.status_code == 404
        assert (await http.post(engine.url + LOOKUP)).status_code == 405


async def test_refusals_are_free(http: httpx.AsyncClient, engine: LoopbackEngine) -> None:
    """An error status costs nothing, not even the prompt."""
    fault = Fault(status=503, billing=Billing.FULL)
    body = {"model": "m", "prompt": "one two"}
    refused = await http.post("/api/generate", json=body, headers=fault.to_header())
    found = await _look_up(engine, refused.headers["x-generation-id"])
    assert (found["native_tokens_prompt"], found["native_tokens_completion"]) == (0, 0)
    assert engine.requests[0].ending is Ending.REFUSED


async def test_an_engine_that_bills_all_can_be_stopped(ask: Ask) -> None:
    """An engine that is stopped lets go of answers whose reader left by a reset."""
    async with LoopbackEngine(interval=0.01) as engine:
        fault = Fault(billing=Billing.FULL)
        client = await ask(engine, tokens=100_000, fault=fault)
        await client.read_until(1)
        client.leave("reset")
        await engine.wait_until(lambda: engine.request("it").connection_closed_at is not None)
    assert not engine.request("it").ran_to_end
