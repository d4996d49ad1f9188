"""Pace, slots and backpressure of the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise

from streamguard_testing import Cut, EngineSettings, Fault, LoopbackEngine, RawClient, State
from streamguard_testing.generation import Generation
from streamguard_testing.ollama_dialect import OllamaDialect
from streamguard_testing.plans import plan
from streamguard_testing.records import LiveRequest

Ask = Callable[..., Awaitable[RawClient]]


def _instants(engine: LoopbackEngine) -> list[float]:
    live = engine.log.get("it")
    assert live is not None
    return list(live.instants)


def _started(engine: LoopbackEngine) -> float:
    """Where a request's instants are counted from: the first token itself may be late."""
    started = engine.request("it").started_at
    assert started is not None
    return started


async def _turns(count: int) -> None:
    """Let the loop, and with it the engine, take this many turns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def _until_held_back(engine: LoopbackEngine) -> int:
    """Wait until an engine at full speed makes no more tokens, and return how many it made."""
    made = -1
    while made < (now := engine.request("it").generated):
        made = now
        await _turns(50)
    return made


async def test_tokens_are_never_early(ask: Ask) -> None:
    """Each token comes at or after its own instant, counted from the start."""
    async with LoopbackEngine(interval=0.004, first_token_delay=0.01) as engine:
        client = await ask(engine, tokens=20)
        await client.read_to_end()
        started = _started(engine)
        for number, instant in enumerate(_instants(engine)):
            assert instant >= started + 0.01 + number * 0.004 - 1e-6


async def test_rate_is_an_interval(ask: Ask) -> None:
    """A rate of 200 tokens a second is one token every 5 ms."""
    async with LoopbackEngine(tokens_per_second=200) as engine:
        client = await ask(engine, tokens=10)
        await client.read_to_end()
        assert _instants(engine)[-1] >= _started(engine) + 9 * 0.005 - 1e-6


async def test_delays_do_not_add_up(ask: Ask) -> None:
    """An engine that was late catches up, since its instants are absolute."""
    async with LoopbackEngine(interval=0.005) as engine:
        client = await ask(engine, tokens=40)
        await client.read_until(2)
        until = time.monotonic() + 0.1
        while time.monotonic() < until:  # nobody but us gets the loop for twenty intervals
            pass
        await client.read_to_end()
        gaps = [after - before for before, after in pairwise(_instants(engine))]
        assert sum(gap < 0.0025 for gap in gaps) >= 5


async def test_a_lead_comes_before_the_pace(ask: Ask) -> None:
    """The first tokens are not waited for; the next one has the whole interval to itself."""
    async with LoopbackEngine(interval=3600, lead=3) as engine:
        client = await ask(engine, tokens=10)
        await client.read_until(3)
        await _turns(50)
        assert engine.request("it").generated == 3
        client.leave()
        record = await engine.request_ended("it")
    assert record.generated == 3


async def test_burst_is_generated_and_written_at_once(ask: Ask) -> None:
    """A burst of four is one step of four tokens, every four intervals, and the rest at the end."""
    async with LoopbackEngine(interval=0.004, burst=4) as engine:
        client = await ask(engine, tokens=10)
        first = await client.read_some()
        assert first.count(b"\n") == 4
        await client.read_to_end()
        instants = _instants(engine)
        steps = sorted(set(instants))
        assert [instants.count(step) for step in steps] == [4, 4, 2]
        assert steps[1] >= _started(engine) + 0.016 - 1e-6


async def test_slots(ask: Ask) -> None:
    """No more requests than slots are generated at a time; the others wait, in order, unheard."""
    async with LoopbackEngine(slots=2, interval=0.002) as engine:
        clients = [await ask(engine, f"r{n}", tokens=10 + n) for n in range(5)]
        await engine.wait_until(lambda: len(engine.requests) == 5)
        most = 0

        def working() -> bool:
            nonlocal most
            states = [record.state for record in engine.requests]
            most = max(most, sum(s in {State.THINKING, State.GENERATING} for s in states))
            return all(state is State.ENDED for state in states)

        waiting = asyncio.ensure_future(engine.wait_until(working))
        for client in clients:
            await client.read_to_end()
        await waiting
        records = engine.requests
        assert most == 2
        starts = [record.started_at or 0.0 for record in records]
        assert starts == sorted(starts)
        assert min(starts[2:]) >= min(record.last_token_at or 0.0 for record in records[:2])
        assert all((r.first_byte_at or 0.0) >= (r.started_at or 0.0) for r in records)


async def test_generation_goes_on_while_the_socket_is_full(ask: Ask) -> None:
    """A reader that reads nothing does not slow the engine down, within a bound."""
    async with LoopbackEngine(send_buffer=4096) as engine:
        client = await ask(engine, tokens=3000, receive_buffer=4096)
        await engine.wait_until(lambda: any(r.generated == 3000 for r in engine.requests))
        assert engine.request("it").state is not State.ENDED
        assert len(await client.read_until(5000)) == 3001


async def test_unsent_bytes_are_bounded(ask: Ask) -> None:
    """Beyond its bound the engine holds back, and goes on when the reader reads."""
    async with LoopbackEngine(send_buffer=4096, max_unsent_bytes=50_000) as engine:
        client = await ask(engine, tokens=5000, receive_buffer=4096)
        await client.read_head()
        made = await _until_held_back(engine)
        assert 300 < made < 3000
        assert len(await client.read_until(6000)) == 5001


async def test_the_bound_holds_for_every_request_of_a_connection() -> None:
    """The second request on a connection may have as much unsent as the first."""
    async with LoopbackEngine(send_buffer=4096) as engine:
        reader, writer = await asyncio.open_connection("127.0.0.1", engine.port, limit=4096)
        for number, tokens in enumerate((2, 5000)):
            body = b'{"model":"m","prompt":"x","options":{"num_predict":%d}}' % tokens
            writer.write(b"POST /api/generate HTTP/1.1\r\nx-engine-request-id: it%d\r\n" % number)
            writer.write(b"content-length: %d\r\n\r\n" % len(body) + body)
            if number == 0:
                await reader.readuntil(b"\r\n0\r\n\r\n")
        await engine.wait_until(lambda: engine.requests[-1].generated == 5000)
        writer.close()


async def test_a_deaf_engine_that_is_held_back_goes_on_when_its_reader_is_gone(ask: Ask) -> None:
    """Told to ignore the close, the engine is not held back by a socket that is gone."""
    async with LoopbackEngine(send_buffer=4096, max_unsent_bytes=50_000) as engine:
        fault = Fault(ignore_close=True)
        client = await ask(engine, tokens=5000, receive_buffer=4096, fault=fault)
        await client.read_head()
        assert await _until_held_back(engine) < 3000
        client.leave("reset")
        assert (await engine.request_ended("it")).generated == 5000


async def test_a_cut_comes_after_the_tokens(ask: Ask) -> None:
    """All tokens before a cut reach the reader, also one who is slow."""
    async with LoopbackEngine(send_buffer=4096) as engine:
        fault = Fault(cut_after=3000, cut=Cut.ABRUPT)
        client = await ask(engine, tokens=5000, receive_buffer=4096, fault=fault)
        await engine.wait_until(lambda: any(r.generated == 3000 for r in engine.requests))
        assert len(await client.read_until(5000)) == 3000
        assert client.truncated


async def test_late_headers_are_not_made_up_for(ask: Ask) -> None:
    """After late headers the tokens come at their pace, not all that would have come meanwhile."""
    async with LoopbackEngine(interval=0.01) as engine:
        begun = time.monotonic()
        client = await ask(engine, tokens=15, fault=Fault(header_delay=0.1))
        await client.read_to_end()
        # Made up for, the last one would come at its instant without the delay.
        assert _instants(engine)[-1] >= begun + 0.1 + 14 * 0.01 - 1e-6


class _HeldBack:
    """A way to a reader which holds the engine back once, for ten intervals."""

    gone = False

    def __init__(self) -> None:
        self.seconds = 0.1

    def start(self, status: int, content_type: str) -> None:
        """Take a head."""

    def write(self, data: bytes) -> None:
        """Take a piece."""

    def finish(self) -> None:
        """Take the end."""

    def whole(
        self, status: int, content_type: str, body: bytes, retry_after: int | None = None
    ) -> None:
        """Take a response in one piece."""

    def cut(self, how: Cut) -> None:
        """Take a cut."""

    async def writable(self) -> bool:
        """Hold the engine back, the first time."""
        seconds, self.seconds = self.seconds, 0.0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await _turns(1)
        return seconds > 0

    async def flushed(self) -> None:
        """Be flushed."""


async def test_an_engine_that_was_held_back_does_not_catch_up() -> None:
    """Time for which a full socket held the engine back is not made up for afterwards."""
    dialect, settings = OllamaDialect(chat=False), EngineSettings(interval=0.01)
    ask = dialect.ask({"model": "m", "prompt": "x", "options": {"num_predict": 30}})
    live = LiveRequest(
        id="it",
        dialect=dialect.name,
        model="m",
        stream=True,
        prompt_tokens=1,
        max_tokens=30,
        planned_tokens=30,
        connection_opened_at=0.0,
        changed=lambda: None,
    )
    generation = Generation(
        live=live,
        ask=ask,
        plan=plan(ask, Fault(), settings),
        dialect=dialect,
        fault=Fault(),
        settings=settings,
        slots=None,
        responder=_HeldBack(),
    )
    begun = time.monotonic()
    await generation.run()
    assert live.instants[1] - live.instants[0] >= 0.1
    # Made up for, the last one would come at the instant it had without the wait.
    assert live.instants[-1] >= begun + 0.1 + 29 * 0.01 - 1e-6
