"""Tests of `batches()`: the stream for send loops, on every path."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from streamguard_core import (
    AnyChunk,
    Cause,
    CloseState,
    Deadlines,
    StreamSession,
    UsageError,
    grace,
)
from streamguard_core.testing import (
    Played,
    ScriptedProducer,
    ScriptedPull,
    Step,
    call,
    emit,
    fail,
    hang,
    ignore_cancel,
    raise_in_finally,
    scripted_iterator,
    settled,
    wait,
)

Build = Callable[..., Any]
Batches = Callable[..., Any]


@pytest.fixture(params=[False, True], ids=["in a task", "beside"])
def batches_of(request: pytest.FixtureRequest) -> Batches:
    """`session.batches()`, with the iterator in a task of its own and in the reader's."""
    return lambda session, limit=16: session.batches(limit, beside=request.param)


async def test_a_batch_is_what_is_ready_together(build_async: Build, batches_of: Batches) -> None:
    """Nothing waits for more than is there, and nothing is split that fits."""
    built = build_async(emit("a", "b"), emit("c"), wait(5), emit("d"))
    seen = []
    async for batch in batches_of(built.session):
        seen.append((asyncio.get_running_loop().time(), batch))
        await settled()
    assert [chunk for time, batch in seen if time == 0 for chunk in batch] == ["a", "b", "c"]
    assert seen[-1] == (5.0, ["d"])
    assert (await built.session.receipt()).consumed == 4


async def test_a_batch_is_never_larger_than_asked(build: Build, batches_of: Batches) -> None:
    """Neither than `limit` nor than `max_inflight_commits` (G4)."""
    words = [str(number) for number in range(50)]
    for limit, inflight in ((1, 16), (3, 16), (1000, 5)):
        built = build(emit(*words), max_inflight_commits=inflight)
        read: list[AnyChunk] = []
        async for batch in batches_of(built.session, limit):
            assert len(batch) <= min(limit, inflight)
            assert built.session.statistics().inflight <= inflight
            read += batch
        assert read == words
        await built.session.receipt()


async def test_a_batch_of_nothing(build: Build) -> None:
    """A batch has at least one chunk."""
    built = build(emit("a"))
    with pytest.raises(
        UsageError, match=r"batches.limit=0. was called; a batch has at least 1 chunk"
    ):
        built.session.batches(0)
    await built.session.aclose()


async def test_leaving_early(build: Build, batches_of: Batches) -> None:
    """Closing the generator of batches is a disconnect, whatever the producer does meanwhile."""
    scripts: list[list[Step]] = [
        [emit("a", "b", "c"), hang()],
        [emit("a"), hang()],
        [emit("a"), emit("b")],
        [emit("a"), wait(1)],
    ]
    for script in scripts:
        for limit in (1, 16):
            built = build(*script)
            batches = batches_of(built.session, limit)
            assert (await anext(batches))[0] == "a"
            await settled()
            await batches.aclose()
            assert built.session.statistics().consumer == "away"
            receipt = await built.session.receipt()
            assert receipt.cause in {Cause.CLIENT_DISCONNECT, Cause.COMPLETED}
            assert (receipt.consumed, receipt.eos_delivered) == (0, False)
            assert built.played.begun == built.played.ended == 1


async def test_leaving_by_break(build: Build, batches_of: Batches) -> None:
    """A dropped generator of batches is finalised at once."""
    built = build(emit("a"), hang())
    async for batch in batches_of(built.session):
        assert batch == ["a"]
        break
    receipt = await built.session.receipt()
    assert receipt.cause is Cause.CLIENT_DISCONNECT
    assert built.played.ended == 1


async def test_leaving_a_producer_whose_cleaning_up_fails(
    build_async: Build, batches_of: Batches
) -> None:
    """The reader does not get the producer's error."""
    built = build_async(raise_in_finally(), emit("a"), hang())
    batches = batches_of(built.session)
    assert await anext(batches) == ["a"]
    await batches.aclose()
    assert (await built.session.receipt()).cause is Cause.CLIENT_DISCONNECT


async def test_a_cut_while_a_batch_is_being_sent(build: Build, batches_of: Batches) -> None:
    """What was handed over counts when the reader comes back; then EOS."""
    built = build(emit("a"), hang())
    batches = batches_of(built.session)
    assert await anext(batches) == ["a"]
    await settled()
    built.session.cancel()
    with pytest.raises(StopAsyncIteration):
        await anext(batches)
    receipt = await built.session.receipt()
    assert (receipt.cause, receipt.consumed, receipt.eos_delivered) == (Cause.USER_CANCEL, 1, True)


async def test_a_failure_after_chunks_that_were_ready(build: Build, batches_of: Batches) -> None:
    """The chunks before the failure are delivered; the failure is the cause."""
    for script in ([emit("a"), emit("b"), fail()], [emit("a", "b"), fail()], [fail()]):
        built = build(*script)
        read = [chunk async for batch in batches_of(built.session) for chunk in batch]
        assert read == ["a", "b"][: 2 * (len(script) > 1)]
        assert (await built.session.receipt()).cause is Cause.PRODUCER_ERROR


async def test_leaving_with_the_last_chunks_in_hand(batches_of: Batches) -> None:
    """The producer has ended, its last batch was handed over and never taken."""
    for script in ([emit(*"abc")], [emit(*"abc"), fail()]):
        session = StreamSession(scripted_iterator(*script))
        batches = batches_of(session)
        taken = 0
        while (last := await anext(batches))[-1] != "c":
            taken += len(last)
        await batches.aclose()
        receipt = await session.receipt()
        assert (receipt.committed, receipt.consumed, receipt.eos_delivered) == (3, taken, False)


async def test_a_reader_that_comes_back_gets_the_batch_again() -> None:
    """One that left while it was sending has not taken what it had in hand (G3)."""
    session = StreamSession(scripted_iterator(emit(*"abc"), hang()), on_disconnect=grace(60))
    batches = session.batches()
    assert (await anext(batches))[0] == "a"
    await batches.aclose()
    assert session.statistics().consumed == 0
    again = session.batches()
    assert (await anext(again))[0] == "a"
    session.cancel()
    await again.aclose()
    await session.receipt()


async def test_full_batches_let_the_loop_turn(batches_of: Batches) -> None:
    """A producer that is always ready does not starve the loop."""

    async def endless() -> AsyncIterator[str]:
        while True:
            yield "x"

    for deadlines in (None, Deadlines(total=1000)):
        session = StreamSession(endless(), max_inflight_commits=4, deadlines=deadlines)
        asyncio.get_running_loop().call_soon(session.disconnected)
        batches = 0
        async for _ in batches_of(session):
            batches += 1
            assert batches < 20
        assert (await session.receipt()).cause is Cause.CLIENT_DISCONNECT


async def test_a_second_reader_beside_the_batches(build_pushed: Build, batches_of: Batches) -> None:
    """Whoever is superseded between two batches is told."""
    built = build_pushed(emit("a"), hang())
    batches = batches_of(built.session)
    assert await anext(batches) == ["a"]
    other = asyncio.ensure_future(built.session.read_ready())
    await settled()
    with pytest.raises(UsageError, match="was read by somebody else meanwhile"):
        await anext(batches)
    built.session.cancel()
    await asyncio.wait([other])
    await built.session.receipt()
    # One that is superseded and leaves ends nothing.
    built = build_pushed(emit("a"), hang())
    batches = batches_of(built.session)
    assert await anext(batches) == ["a"]
    other = asyncio.ensure_future(built.session.read_ready())
    await settled()
    await batches.aclose()
    assert built.session.cause is None
    built.session.cancel()
    await asyncio.wait([other])
    await built.session.receipt()


async def test_deadlines_hold_for_batches(batches_of: Batches) -> None:
    """Silence, and a consumer that holds a batch for too long."""
    for make in (scripted_iterator, ScriptedPull, ScriptedProducer):
        session = StreamSession(make(emit("a"), hang()), deadlines=Deadlines(idle=5))
        assert [batch async for batch in batches_of(session)] == [["a"]]
        assert (await session.receipt()).cause is Cause.TIMEOUT_IDLE
        session = StreamSession(make(emit("a"), hang()), deadlines=Deadlines(consumer_stall=5))
        async for _ in batches_of(session):
            await asyncio.sleep(100)
        assert (await session.receipt()).cause is Cause.CONSUMER_STALLED


async def test_a_deaf_iterator_does_not_hold_the_reader_of_batches_for_ever(
    batches_of: Batches,
) -> None:
    """In a task of its own it holds nobody; in the reader's, a step that is given up on frees the reader."""
    played = Played()
    session = StreamSession(scripted_iterator(ignore_cancel(), emit(*"ab"), hang(), played=played))
    read: list[AnyChunk] = []

    async def take() -> None:
        async for batch in batches_of(session):
            read.extend(batch)

    reading = asyncio.ensure_future(take())
    await settled()
    session.cancel()
    await reading
    assert read == ["a", "b"]
    assert asyncio.get_running_loop().time() <= 5
    assert (await session.receipt()).close is CloseState.UNCONFIRMED
    played.deaf = False
    played.release()


async def _all(session: StreamSession) -> list[AnyChunk]:
    return [chunk async for batch in session.batches() for chunk in batch]


async def test_a_producer_that_cuts_its_stream_off_between_ready_chunks(build_async: Build) -> None:
    """What was ready before it is delivered, what comes after is late (G2)."""
    cell: list[StreamSession] = []
    script = [emit("a"), emit("b"), call(lambda _: cell[0].cancel()), emit("c"), hang()]
    built = build_async(*script)
    cell.append(built.session)
    assert await _all(built.session) == ["a", "b"]
    receipt = await built.session.receipt()
    assert (receipt.cause, receipt.produced, receipt.late) == (Cause.USER_CANCEL, 2, 1)
    assert built.played.ended == 1
