"""The engine notices at once, in every phase, that its reader left, and counts exactly."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

import httpx
import openai
import pytest

from streamguard_testing import (
    Ending,
    EngineRequest,
    Fault,
    Leave,
    LeftBy,
    LoopbackEngine,
    RawClient,
    State,
)

Ask = Callable[..., Awaitable[RawClient]]

#: How the engine's kernel may see each way of leaving: it makes a reset of a close if the reader
#: has not read all that had come.
SEEN = {
    Leave.CLOSE: {LeftBy.CLOSE, LeftBy.RESET},
    Leave.RESET: {LeftBy.RESET},
    Leave.HALF_CLOSE: {LeftBy.CLOSE},
}


def _left_at(client: RawClient) -> float:
    assert client.left_at is not None
    return client.left_at


def _let_go(record: EngineRequest, left_at: float) -> float:
    """Return the seconds from leaving to the closing of the connection, both of which are there."""
    assert record.noticed_at is not None
    assert record.connection_closed_at is not None
    assert left_at <= record.noticed_at <= record.connection_closed_at
    return record.connection_closed_at - left_at


@pytest.mark.parametrize("how", Leave)
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/v1/chat/completions"])
async def test_in_mid_stream(ask: Ask, how: Leave, path: str) -> None:
    """A reader that leaves between two tokens costs no further token."""
    async with LoopbackEngine(interval=0.02) as engine:
        client = await ask(engine, path=path)
        await client.read_until(4)
        client.leave(how)
        record = await engine.request_ended("it")
        assert record.ending is Ending.ABANDONED
        assert record.left_by in SEEN[how]
        assert record.generated_after_noticed == 0
        assert engine.generated_after("it", _left_at(client)) <= 1
        assert 3 <= record.generated <= 6
        assert not record.ran_to_end
        assert _let_go(record, _left_at(client)) < 0.3


@pytest.mark.parametrize("how", Leave)
async def test_at_full_speed(ask: Ask, how: Leave) -> None:
    """Also an engine that never waits looks at the socket between any two steps."""
    async with LoopbackEngine() as engine:
        client = await ask(engine, tokens=50_000)
        await client.read_until(1)
        client.leave(how)
        record = await engine.request_ended("it")
        assert record.ending is Ending.ABANDONED
        assert record.generated_after_noticed == 0
        assert engine.generated_after("it", _left_at(client)) < 200


@pytest.mark.parametrize("how", Leave)
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_while_thinking(ask: Ask, how: Leave, path: str) -> None:
    """A reader that leaves before the first token is noticed at once, and costs no token."""
    async with LoopbackEngine(first_token_delay=60.0) as engine:
        client = await ask(engine, path=path)
        await engine.wait_until(
            lambda: bool(engine.requests) and engine.request("it").state is State.THINKING
        )
        client.leave(how)
        record = await engine.request_ended("it")
        assert (record.generated, record.first_token_at) == (0, None)
        assert record.ending is Ending.ABANDONED
        assert record.left_by is (LeftBy.RESET if how is Leave.RESET else LeftBy.CLOSE)
        assert _let_go(record, _left_at(client)) < 0.3


@pytest.mark.parametrize("how", Leave)
async def test_while_queued(ask: Ask, how: Leave) -> None:
    """A reader that leaves before a slot is free is noticed at once, and takes no slot."""
    async with LoopbackEngine(slots=1, interval=0.01) as engine:
        first = await ask(engine, "first", tokens=1000)
        await first.read_until(1)
        second = await ask(engine, "second")
        await engine.wait_until(lambda: len(engine.requests) == 2)
        third = await ask(engine, "third", tokens=2)
        second.leave(how)
        record = await engine.request_ended("second")
        assert (record.started_at, record.first_byte_at, record.generated) == (None, None, 0)
        assert record.ending is Ending.ABANDONED
        assert _let_go(record, _left_at(second)) < 0.3
        first.leave()
        assert len(await third.read_until(3)) == 3


async def test_behind_a_full_socket(ask: Ask) -> None:
    """A reader that has stalled and then leaves is noticed although nothing can be written."""
    async with LoopbackEngine(send_buffer=4096) as engine:
        client = await ask(engine, tokens=4000, receive_buffer=4096)
        await engine.wait_until(
            lambda: bool(engine.requests) and engine.request("it").state is State.FLUSHING
        )
        client.leave("reset")
        record = await engine.request_ended("it")
        assert (record.ending, record.ran_to_end) == (Ending.ABANDONED, True)
        assert (record.generated, record.generated_after_noticed) == (4000, 0)
        assert _let_go(record, _left_at(client)) < 0.3


async def test_without_a_stream() -> None:
    """A caller that waits for an answer in one piece and leaves is noticed as well."""
    async with LoopbackEngine(interval=0.01) as engine:
        body = {"model": "m", "prompt": "x", "stream": False, "options": {"num_predict": 1000}}
        async with await RawClient.open(engine.url, "POST", "/api/generate", body) as client:
            await engine.wait_until(lambda: any(r.generated >= 3 for r in engine.requests))
            client.leave()
        (record,) = engine.requests
        record = await engine.request_ended(record.id)
        assert (record.ending, record.first_byte_at) == (Ending.ABANDONED, None)
        assert record.generated < 1000


@pytest.mark.parametrize("how", Leave)
async def test_an_engine_that_is_deaf(ask: Ask, how: Leave) -> None:
    """Told to ignore the close, the engine generates to the end, and counts what that was."""
    async with LoopbackEngine(interval=0.001) as engine:
        client = await ask(engine, tokens=60, fault=Fault(ignore_close=True))
        await client.read_until(3)
        client.leave(how)
        record = await engine.request_ended("it")
        assert (record.ending, record.ran_to_end) == (Ending.COMPLETED, True)
        assert record.generated == 60
        assert record.left_by in SEEN[how]
        assert record.generated_after_noticed >= 40
        after = engine.generated_after("it", _left_at(client))
        assert record.generated_after_noticed <= after < 60


async def test_a_deaf_engine_goes_on_sending_to_a_half_closed_reader(ask: Ask) -> None:
    """A reader that closed only its own side can read to the end, if the engine ignores that."""
    async with LoopbackEngine(interval=0.001) as engine:
        client = await ask(engine, tokens=20, fault=Fault(ignore_close=True))
        client.leave("half_close")
        assert len(await client.read_until(30)) == 21
        assert client.complete
        record = await engine.request_ended("it")
        assert record.connection_closed_at is not None


async def test_a_deaf_engine_keeps_its_queue_place(ask: Ask) -> None:
    """Told to ignore the close, a queued request is generated in full when its turn comes."""
    async with LoopbackEngine(slots=1, interval=0.002) as engine:
        first = await ask(engine, "first", tokens=20)
        await first.read_until(1)
        second = await ask(engine, "second", tokens=5, fault=Fault(ignore_close=True))
        await engine.wait_until(lambda: len(engine.requests) == 2)
        second.leave()
        record = await engine.request_ended("second")
        assert (record.generated, record.generated_after_noticed) == (5, 5)


async def test_forty_readers(ask: Ask) -> None:
    """Forty readers that leave at different tokens, by FIN and RST, cost next to nothing."""
    async with LoopbackEngine(interval=0.01) as engine:

        async def read_and_leave(number: int) -> float:
            client = await ask(engine, f"reader-{number}", tokens=400)
            await client.read_until(1 + number % 7)
            return client.leave(Leave.RESET if number % 2 else Leave.CLOSE)

        left = await asyncio.gather(*(read_and_leave(number) for number in range(40)))
        await engine.wait_idle()
        burnt = [engine.generated_after(f"reader-{n}", at) for n, at in enumerate(left)]
        assert max(burnt) <= 2
        assert {record.ending for record in engine.requests} == {Ending.ABANDONED}
        assert engine.open_connections == 0


async def test_httpx_reader() -> None:
    """A reader on httpx that closes its response is noticed."""
    async with LoopbackEngine(interval=0.005) as engine, httpx.AsyncClient() as http:
        body = {"model": "m", "prompt": "x", "options": {"num_predict": 1000}}
        async with http.stream("POST", f"{engine.url}/api/generate", json=body) as response:
            request_id = response.headers["x-engine-request-id"]
            await anext(response.aiter_lines())
        left_at = time.monotonic()
        record = await engine.request_ended(request_id)
        assert (record.ending, record.generated_after_noticed) == (Ending.ABANDONED, 0)
        assert engine.generated_after(request_id, left_at) <= 2


async def test_openai_reader() -> None:
    """A reader on OpenAI's own client that closes its stream is noticed."""
    async with (
        LoopbackEngine(interval=0.005) as engine,
        openai.AsyncOpenAI(base_url=engine.openai_url, api_key="x", max_retries=0) as sdk,
    ):
        stream = await sdk.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "hi"}],
            max_tokens=1000,
            stream=True,
            extra_headers={"x-engine-request-id": "sdk"},
        )
        async with stream:
            await anext(stream)
        record = await engine.request_ended("sdk")
        assert (record.ending, record.generated_after_noticed) == (Ending.ABANDONED, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not to be had there")
def test_on_another_loop() -> None:
    """The engine and its readers run on uvloop as well, and notice a close as fast."""
    uvloop = pytest.importorskip("uvloop")

    async def leave_in_every_way() -> None:
        async with LoopbackEngine(interval=0.005, send_buffer=65536) as engine:
            body = {"model": "m", "prompt": "x", "options": {"num_predict": 400}}
            for how in Leave:
                headers = {"x-engine-request-id": how.value}
                async with await RawClient.open(
                    engine.url, "POST", "/api/generate", body, headers
                ) as client:
                    await client.read_until(3)
                    left_at = client.leave(how)
                    record = await engine.request_ended(how.value)
                assert record.left_by in SEEN[how]
                assert record.generated_after_noticed == 0
                assert engine.generated_after(how.value, left_at) <= 2

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(leave_in_every_way())


async def test_a_reader_that_stays_costs_what_it_asked_for(ask: Ask) -> None:
    """A request read to its end is completed, and its connection is kept for the next one."""
    async with LoopbackEngine() as engine:
        client = await ask(engine, tokens=25)
        await client.read_to_end()
        record = await engine.request_ended("it")
        assert (record.ending, record.ran_to_end) == (Ending.COMPLETED, True)
        assert (record.generated, record.planned_tokens, record.max_tokens) == (25, 25, 25)
        assert (record.noticed_at, record.connection_closed_at) == (None, None)
        client.leave()
        await engine.wait_until(lambda: engine.open_connections == 0)
        record = engine.request("it")
        assert record.noticed_at is None
        assert record.connection_closed_at is not None


async def test_instants_are_in_order(ask: Ask) -> None:
    """The instants of a record follow each other as what they stand for does."""
    async with LoopbackEngine(interval=0.001) as engine:
        before = time.monotonic()
        client = await ask(engine, tokens=5, path="/v1/chat/completions")
        await client.read_to_end()
        record = await engine.request_ended("it")
        instants = [
            before,
            record.connection_opened_at,
            record.received_at,
            record.started_at,
            record.first_byte_at,
            record.first_token_at,
            record.last_token_at,
            record.ended_at,
            time.monotonic(),
        ]
        assert None not in instants
        assert instants == sorted(instants)  # type: ignore[type-var]
        assert engine.generated_after("it", before) == 5
        assert engine.generated_after("it", record.last_token_at or 0.0) == 0
