"""Tests of deadlines on sessions: each phase has its own, and each names whoever was slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from streamguard_core import AnyChunk, Cause, Chunk, Deadlines, StreamSession, grace
from streamguard_core._deadlines import next_due, next_look, tick
from streamguard_core.protocol import StreamProtocol
from streamguard_core.testing import (
    ScriptedConsumer,
    ScriptedProducer,
    ScriptedPull,
    Step,
    call,
    emit,
    hang,
    read,
    read_ready,
    run,
    scripted_iterator,
    settled,
    stall,
    wait,
)

ReadAll = Callable[[StreamSession], Coroutine[Any, Any, list[AnyChunk]]]
Make = Callable[..., StreamSession]


def pull(*script: Step, **deadlines: float) -> StreamSession:
    """A pulled stream."""
    return StreamSession(scripted_iterator(*script), deadlines=Deadlines(**deadlines))


def batches(*script: Step, **deadlines: float) -> StreamSession:
    """A stream pulled in batches."""
    return StreamSession(ScriptedPull(*script), deadlines=Deadlines(**deadlines))


def push(*script: Step, **deadlines: float) -> StreamSession:
    """A pushed stream."""
    return StreamSession(ScriptedProducer(*script), deadlines=Deadlines(**deadlines))


every_way = pytest.mark.parametrize("make", [pull, batches, push])


@every_way
async def test_connect(make: Make, read_all: ReadAll) -> None:
    """No connection and no chunk in time is TIMEOUT_CONNECT."""
    session = make(hang(), connect=3, total=100)
    assert await read_all(session) == []
    assert (await session.receipt()).cause is Cause.TIMEOUT_CONNECT
    assert asyncio.get_running_loop().time() == 3


@every_way
async def test_a_connection_in_time(make: Make, read_all: ReadAll) -> None:
    """A reported connection, or a chunk, meets the connect deadline; the first token has its own."""
    session = make(wait(1), call(lambda _: session.connected()), hang(), connect=3, first_token=10)
    assert await read_all(session) == []
    assert (await session.receipt()).cause is Cause.TIMEOUT_FIRST_TOKEN
    assert asyncio.get_running_loop().time() == 10


@every_way
async def test_a_chunk_without_content_is_a_connection_and_no_token(
    make: Make, read_all: ReadAll
) -> None:
    """Only content meets the first-token deadline."""
    session = make(emit(""), emit(Chunk()), hang(), connect=3, first_token=10)
    assert await read_all(session) == ["", Chunk()]
    assert (await session.receipt()).cause is Cause.TIMEOUT_FIRST_TOKEN


@every_way
async def test_idle(make: Make, read_all: ReadAll) -> None:
    """The longest silence between two chunks; a chunk with content begins it anew."""
    session = make(
        emit("a"), wait(4), emit("b"), wait(4), emit("c"), hang(), idle=5, first_token=60
    )
    assert await read_all(session) == ["a", "b", "c"]
    receipt = await session.receipt()
    assert (receipt.cause, receipt.party) == (Cause.TIMEOUT_IDLE, "CLOCK")
    assert asyncio.get_running_loop().time() == 13


@every_way
async def test_keepalives_do_not_reset_idle(make: Make, read_all: ReadAll) -> None:
    """Chunks without content are no sign of life (pitfall 45)."""
    session = make(emit("a"), *[step for _ in range(10) for step in (wait(2), emit(""))], idle=5)
    assert await read_all(session) == ["a", "", ""]
    assert (await session.receipt()).cause is Cause.TIMEOUT_IDLE
    assert asyncio.get_running_loop().time() == 5


@every_way
async def test_a_slow_consumer_is_not_the_producers_silence(make: Make) -> None:
    """While the consumer holds a chunk, the producer owes nothing (G14), not even after an empty one."""
    script = [emit("a"), emit(""), wait(4), emit("b")]
    for deeds in (
        (read(1), stall(60), read(1), stall(60), read()),
        (read_ready(1, 1), stall(60), read_ready(1)),
    ):
        session = make(*script, idle=5)
        consumer = ScriptedConsumer(*deeds)
        await consumer.consume(session)
        assert consumer.received == ["a", "", "b"]
        assert (await session.receipt()).cause is Cause.COMPLETED


async def test_a_producer_that_waits_for_room_is_not_idle() -> None:
    """Backpressure is the consumer's doing (G14); freed room starts the producer's clock."""
    session = StreamSession(
        ScriptedProducer(emit("a", "b", "c"), hang()),
        speculative_buffer_limit=1,
        max_inflight_commits=1,
        deadlines=Deadlines(idle=5),
    )
    consumer = ScriptedConsumer(read(1), stall(100), read())
    await consumer.consume(session)
    assert consumer.received == ["a", "b", "c"]
    assert (await session.receipt()).cause is Cause.TIMEOUT_IDLE
    assert asyncio.get_running_loop().time() == 105


@every_way
async def test_total(make: Make, read_all: ReadAll) -> None:
    """The whole stream has a deadline, whatever happens in it."""
    session = make(*[step for _ in range(100) for step in (emit("x"), wait(1))], total=10)
    assert len(await read_all(session)) == 10
    assert (await session.receipt()).cause is Cause.TIMEOUT_TOTAL


async def test_total_counts_from_the_start() -> None:
    """Not from when the session was built (a late start is nobody's delay)."""
    session = pull(wait(8), emit("a"), total=10)
    await asyncio.sleep(100)
    assert [chunk async for chunk in session] == ["a"]
    assert (await session.receipt()).cause is Cause.COMPLETED


@every_way
async def test_a_stalled_consumer(make: Make) -> None:
    """A consumer that holds what it was handed for too long is cut off, and it is its own doing (pitfall 46)."""
    for deeds in ((read(1), stall(100), read()), (read_ready(1, 1), stall(100), read_ready())):
        session = make(emit("a"), emit("b"), hang(), consumer_stall=20)
        began = asyncio.get_running_loop().time()
        session.start()
        reading = asyncio.create_task(ScriptedConsumer(*deeds).consume(session))
        receipt = await session.receipt()
        assert (receipt.cause, receipt.party) == (Cause.CONSUMER_STALLED, "CONSUMER")
        assert receipt.instants.cutoff_ns == pytest.approx((began + 20) * 1e9)
        await reading


@every_way
async def test_a_consumer_that_waits_is_not_stalled(make: Make, read_all: ReadAll) -> None:
    """Only holding chunks is stalling; waiting for the producer is not (G14)."""
    session = make(emit("a"), wait(100), emit("b"), consumer_stall=20)
    assert await read_all(session) == ["a", "b"]
    assert (await session.receipt()).cause is Cause.COMPLETED


@every_way
async def test_completion_ends_every_deadline(make: Make, read_all: ReadAll) -> None:
    """No timer is left behind by a stream that completed (regression 20)."""
    session = make(emit("a"), connect=3, first_token=4, idle=5, total=6, consumer_stall=7)
    assert await read_all(session) == ["a"]
    receipt = await session.receipt()
    assert session._timer is None
    await asyncio.sleep(100)
    assert session.sealed is receipt
    assert receipt.cause is Cause.COMPLETED


async def test_close_deadline_is_the_callers() -> None:
    """`close` says how long a producer may take to end."""
    from streamguard_core.testing import ignore_cancel

    producer = ScriptedProducer(ignore_cancel(), hang())
    session = StreamSession(producer, deadlines=Deadlines(close=0.5))
    session.start()
    await settled()
    session.cancel()
    assert (await session.receipt()).close == "unconfirmed"
    assert asyncio.get_running_loop().time() == 0.5
    producer.played.deaf = False


async def test_an_earlier_deadline_moves_the_timer_forward() -> None:
    """A cancel arms the close deadline, although the total one was armed for later."""
    from streamguard_core.testing import ignore_cancel

    producer = ScriptedProducer(ignore_cancel(), emit("a"), hang())
    session = StreamSession(producer, deadlines=Deadlines(total=1000, close=1))
    session.start()
    await settled()
    session.cancel()
    assert (await session.receipt()).close == "unconfirmed"
    assert asyncio.get_running_loop().time() == 1
    producer.played.deaf = False


async def test_a_timer_that_fires_a_moment_early_counts() -> None:
    """Timers are floats of seconds: less than a millisecond early is on time, more is not."""
    session = StreamSession(ScriptedProducer(hang()), deadlines=Deadlines(total=10))
    session.start()
    await asyncio.sleep(5)
    session._on_timer()
    assert session.cause is None
    await asyncio.sleep(4.9995)
    session._on_timer()
    receipt = await session.receipt()
    assert receipt.cause is Cause.TIMEOUT_TOTAL
    assert receipt.instants.cutoff_ns == 10_000_000_000


def test_the_earliest_of_several_passed_deadlines_decides() -> None:
    """After a long pause the deadline that was due first is the cause, at its own instant."""
    protocol = StreamProtocol(deadlines=Deadlines(connect=3, first_token=2, total=1000))
    tick(protocol, 500 * 10**9)
    assert protocol.signal is not None
    assert (protocol.signal.cause, protocol.signal.at_ns) == (Cause.TIMEOUT_FIRST_TOKEN, 2 * 10**9)


def test_nothing_is_due_without_deadlines() -> None:
    """A stream without deadlines has no instant to wait for."""
    protocol = StreamProtocol()
    assert next_due(protocol) is None
    assert next_look(protocol, 0) is None
    tick(protocol, 10**18)
    assert protocol.signal is None


@every_way
async def test_a_shutdown_of_a_timed_stream(make: Make) -> None:
    """Deadlines do not disturb other endings."""
    session = make(emit("a"), hang(), total=1000, idle=900, consumer_stall=800)
    assert await anext(aiter(session)) == "a"
    assert (await session.shutdown()).cause in {Cause.SHUTDOWN, Cause.CLIENT_DISCONNECT}


def test_a_session_built_outside_of_a_loop_runs_on_the_loops_clock() -> None:
    """Its deadlines and its timer go by one clock, whichever loop it is read on."""
    session = StreamSession(scripted_iterator(emit("a"), hang()), deadlines=Deadlines(idle=600))

    async def main() -> tuple[Cause, float]:
        assert [chunk async for chunk in session] == ["a"]
        return (await session.receipt()).cause, asyncio.get_running_loop().time()

    assert run(main()) == (Cause.TIMEOUT_IDLE, 600)


async def test_a_grace_that_begins_before_the_start_is_bounded() -> None:
    """The reader was gone before there was a timer: it is set at the start."""
    session = StreamSession(ScriptedProducer(emit("a"), hang()), on_disconnect=grace(5))
    session.disconnected("gone before")
    session.start()
    receipt = await session.receipt()
    assert (receipt.cause, receipt.policy) == (Cause.CLIENT_DISCONNECT, "grace(5s)")
    assert asyncio.get_running_loop().time() == 5
