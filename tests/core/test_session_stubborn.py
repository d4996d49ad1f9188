"""Tests of producers that make ending hard: deaf ones, late ones, trickling tails, failing clean-ups."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from streamguard_core import (
    AnyChunk,
    Cause,
    CloseState,
    MemoryLedger,
    StreamSession,
    Usage,
)
from streamguard_core.testing import (
    Played,
    ScriptedConsumer,
    ScriptedProducer,
    ScriptedPull,
    call,
    emit,
    finish,
    hang,
    ignore_cancel,
    raise_in_finally,
    read,
    scripted_iterator,
    settled,
    wait,
)

Build = Callable[..., Any]
ReadAll = Callable[[StreamSession], Coroutine[Any, Any, list[AnyChunk]]]


async def test_the_tail_is_harvested() -> None:
    """The reader left after the finish and before the usage: read on for it, nothing was lost (pitfall 19)."""
    usage = Usage.reported_by_provider(output=2, input=5)
    producer = ScriptedPull(
        emit("a", "b"), finish("stop"), wait(1), finish(None, usage), emit("late")
    )
    session = StreamSession(producer)
    async for chunk in session:
        if chunk == "b":
            session.finish("stop")
            break
    receipt = await session.receipt()
    assert (receipt.cause, receipt.client_left_early) == (Cause.COMPLETED, True)
    assert (receipt.finish, receipt.policy) == ("stop", "tail")
    assert receipt.usage == usage
    assert receipt.prevented.value == 0
    assert receipt.history[0].intent
    assert receipt.late == 1
    assert asyncio.get_running_loop().time() == 1


async def test_a_tail_that_trickles_is_bounded_in_time() -> None:
    """A provider that never sends its usage is closed after two seconds (pitfall 42)."""
    session = StreamSession(ScriptedPull(emit("a"), finish("stop"), hang()))
    reading = asyncio.create_task(ScriptedConsumer(read()).consume(session))
    await settled()
    session.disconnected("gone")
    receipt = await session.receipt()
    assert (receipt.cause, receipt.client_left_early) == (Cause.COMPLETED, True)
    assert asyncio.get_running_loop().time() == 2
    await reading


async def test_a_tail_that_floods_is_bounded_in_bytes() -> None:
    """Reading on for the usage stops after 64 KB as well."""
    endless = [emit("x" * 20_000) for _ in range(20)]
    session = StreamSession(ScriptedPull(emit("a"), *endless, hang()))
    async for _ in session:
        session.finish("stop")
        break
    receipt = await session.receipt()
    assert (receipt.cause, receipt.late) == (Cause.COMPLETED, 4)


async def test_two_causes_in_one_turn_are_both_known(build: Build) -> None:
    """The budget and the disconnect in one step: the first decides, both are recorded (pitfall 16)."""
    built = build(emit("a"), hang())
    reading = asyncio.create_task(ScriptedConsumer(read()).consume(built.session))
    await settled()
    built.session.terminate(Cause.BUDGET, "spent")
    built.session.disconnected("left")
    await reading
    receipt = await built.session.receipt()
    assert receipt.cause is Cause.BUDGET
    assert [signal.cause for signal in receipt.history] == [Cause.BUDGET, Cause.CLIENT_DISCONNECT]


async def test_a_producer_that_cuts_its_own_stream_off(
    build_async: Build, read_all: ReadAll
) -> None:
    """Code inside the producer may end the stream; the producer is ended and the reader gets EOS."""
    cell: list[StreamSession] = []
    built = build_async(emit("a"), call(lambda _: cell[0].cancel("myself")), hang())
    cell.append(built.session)
    assert await read_all(built.session) == ["a"]
    receipt = await built.session.receipt()
    assert (receipt.cause, receipt.close) == (Cause.USER_CANCEL, CloseState.CONFIRMED)
    assert built.played.ended == 1
    assert asyncio.get_running_loop().time() < 1


async def test_a_producer_that_cuts_its_stream_off_and_emits(
    build_async: Build, read_all: ReadAll
) -> None:
    """What it emits afterwards is late (G2)."""
    cell: list[StreamSession] = []
    built = build_async(emit("a"), call(lambda _: cell[0].cancel("myself")), emit("b"), hang())
    cell.append(built.session)
    assert await read_all(built.session) == ["a"]
    receipt = await built.session.receipt()
    assert (receipt.produced, receipt.late) == (1, 1)


async def test_a_producer_that_cuts_its_stream_off_at_its_very_first_step(
    read_all: ReadAll,
) -> None:
    """`stream()` itself may end the stream before there is an iterator; it is closed all the same."""
    played = Played()

    class Impatient:
        def stream(self, *, report: object) -> AsyncIterator[AnyChunk]:
            session.cancel("not today")
            return scripted_iterator(hang(), played=played)

    session = StreamSession(Impatient())
    assert await read_all(session) == []
    receipt = await session.receipt()
    assert (receipt.cause, receipt.close) == (Cause.USER_CANCEL, CloseState.CONFIRMED)
    assert played.begun == played.ended


async def test_cleaning_up_that_fails_is_history(build_async: Build, read_all: ReadAll) -> None:
    """An error while the producer is closed changes neither cause nor receipt count (pitfall 12)."""
    ledger = MemoryLedger()
    built = build_async(raise_in_finally(), emit("a"), hang(), ledger=ledger)
    reader = asyncio.create_task(read_all(built.session))
    await settled()
    built.session.cancel()
    assert await reader == ["a"]
    receipt = await built.session.receipt()
    assert receipt.cause is Cause.USER_CANCEL
    assert [signal.detail for signal in receipt.history] == ["", "RuntimeError"]
    assert len(ledger.receipts) == 1


async def test_leaving_a_producer_whose_cleaning_up_fails(build_async: Build) -> None:
    """A reader that leaves does not get the producer's clean-up error."""
    built = build_async(raise_in_finally(), emit("a"), hang())
    iterator = aiter(built.session)
    assert await anext(iterator) == "a"
    await iterator.aclose()
    await built.session.aclose()
    receipt = await built.session.receipt()
    assert receipt.cause is Cause.CLIENT_DISCONNECT


async def test_a_deaf_producer_is_unconfirmed(build_pushed: Build, read_all: ReadAll) -> None:
    """One that ignores its cancellation is given up on after the close deadline; the reader waits not at all."""
    built = build_pushed(ignore_cancel(), emit("a"), hang())
    built.session.on_close(lambda: None)
    reader = asyncio.create_task(read_all(built.session))
    await settled()
    before = asyncio.get_running_loop().time()
    built.session.cancel()
    assert await reader == ["a"]
    assert asyncio.get_running_loop().time() == before
    await built.session.receipt()
    built.played.deaf = False
    built.played.release()


async def test_a_deaf_push_producer_is_given_up_on(read_all: ReadAll) -> None:
    """The receipt says `unconfirmed`, after the close deadline and not before (G10)."""
    producer = ScriptedProducer(ignore_cancel(), emit("a"), hang())
    session = StreamSession(producer)
    reader = asyncio.create_task(read_all(session))
    await settled()
    session.cancel()
    assert await reader == ["a"]
    receipt = await session.receipt()
    assert receipt.close is CloseState.UNCONFIRMED
    assert asyncio.get_running_loop().time() == 5
    # Two cancellations arrived: the one at the cutoff, and the last one at the deadline.
    assert producer.played.interrupted == 2
    assert receipt.instants.close_called_ns == 0
    assert receipt.instants.close_confirmed_ns is None
    producer.played.deaf = False


async def test_a_deaf_iterator_does_not_hold_a_batch_reader() -> None:
    """`read_ready` runs the iterator in a task of its own: the reader is free at the cutoff."""
    played = Played()
    session = StreamSession(scripted_iterator(ignore_cancel(), emit("a"), hang(), played=played))
    assert await session.read_ready() == ["a"]
    reader = asyncio.create_task(session.read_ready())
    await settled()
    session.cancel()
    assert await reader == []
    assert asyncio.get_running_loop().time() == 0
    receipt = await session.receipt()
    assert asyncio.get_running_loop().time() == 5
    assert (receipt.close, receipt.eos_delivered) == (CloseState.UNCONFIRMED, True)
    played.deaf = False
    played.release()


async def test_late_chunks_are_refused_and_counted(build_async: Build) -> None:
    """A producer that ignores its cancellation and goes on emitting commits nothing (G2)."""
    built = build_async(emit("a"), ignore_cancel(), wait(1), emit("b"), emit("c"))
    consumer = ScriptedConsumer(read())
    reading = asyncio.create_task(consumer.consume(built.session))
    await settled()
    built.session.cancel()
    await reading
    receipt = await built.session.receipt()
    assert consumer.received == ["a"]
    assert (receipt.produced, receipt.committed) == (1, 1)
    assert receipt.late >= 1


async def test_a_drain_that_is_stopped_before_it_begins(build_pulled: Build) -> None:
    """The reader leaves after the finish, and the server goes down in the same turn: the iterator is closed."""
    built = build_pulled(emit("a"), hang())
    iterator = aiter(built.session)
    assert await anext(iterator) == "a"
    built.session.finish("stop")
    leaving = asyncio.create_task(iterator.aclose())
    await asyncio.sleep(0)
    assert built.session.statistics().producer == "draining"
    receipt = await built.session.shutdown()
    await leaving
    assert (receipt.cause, receipt.close) == (Cause.COMPLETED, CloseState.CONFIRMED)
    assert built.played.ended == 1
    assert asyncio.get_running_loop().time() == 0


class Closing:
    """An iterator as SDKs have them: no generator, closed by `aclose()`, which takes its time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._words = ["a"]

    def __aiter__(self) -> Closing:
        return self

    async def __anext__(self) -> str:
        if not self._words:
            await asyncio.Event().wait()
        return self._words.pop()

    async def aclose(self) -> None:
        await asyncio.sleep(self._seconds)


@pytest.mark.parametrize("from_outside", [False, True])
async def test_a_close_is_confirmed_when_it_has_happened(
    read_all: ReadAll, from_outside: bool
) -> None:
    """Interrupted is not closed: the receipt has the instant at which `aclose()` returned (G10)."""
    session = StreamSession(Closing(2))
    reading = asyncio.create_task(read_all(session))
    await asyncio.sleep(1)
    if from_outside:
        reading.cancel()
    else:
        session.cancel()
    await asyncio.wait([reading])
    # The reader is not made to wait for it.
    assert asyncio.get_running_loop().time() == 1
    receipt = await session.receipt()
    assert (receipt.close, receipt.instants.close_confirmed_ns) == (
        CloseState.CONFIRMED,
        3_000_000_000,
    )


async def test_a_close_that_hangs_is_unconfirmed(read_all: ReadAll) -> None:
    """The same with an `aclose()` that does not return by the close deadline."""
    session = StreamSession(Closing(60))
    reading = asyncio.create_task(read_all(session))
    await asyncio.sleep(1)
    session.cancel()
    assert await reading == ["a"]
    assert (await session.receipt()).close is CloseState.UNCONFIRMED
    await asyncio.sleep(60)
