"""Tests of how streams end before their producer does: who acted, what is left, and who is told."""

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
    Party,
    StreamSession,
    Usage,
    drain,
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
    leave,
    park,
    raise_error,
    raise_in_finally,
    read,
    scripted_iterator,
    settled,
    stall,
    wait,
)

Build = Callable[..., Any]
ReadAll = Callable[[StreamSession], Coroutine[Any, Any, list[AnyChunk]]]


async def test_cancel_while_the_reader_waits(build: Build, read_all: ReadAll) -> None:
    """The reader gets what was committed and EOS; the producer is closed, the cause is the user's."""
    ledger = MemoryLedger()
    built = build(emit("a"), emit("b"), hang(), ledger=ledger)
    reader = asyncio.create_task(read_all(built.session))
    await settled()
    built.session.cancel("pressed stop")
    assert await reader == ["a", "b"]
    receipt = await built.session.receipt()
    assert (receipt.cause, receipt.detail, receipt.party) == (
        Cause.USER_CANCEL,
        "pressed stop",
        Party.CONSUMER,
    )
    assert receipt.close is CloseState.CONFIRMED
    assert receipt.eos_delivered
    assert built.played.ended == 1
    assert len(ledger.receipts) == 1


CAUSES = [cause for cause in Cause if cause is not Cause.COMPLETED]


@pytest.mark.parametrize("cause", CAUSES)
async def test_terminate_with_any_cause(cause: Cause) -> None:
    """Whoever has authority names the cause; its category and party come with it."""
    session = StreamSession(scripted_iterator(hang()))
    session.start()
    session.terminate(cause, "because")
    receipt = await session.receipt()
    assert (receipt.cause, receipt.category, receipt.party) == (cause, cause.category, cause.party)


async def test_the_first_cause_wins(build: Build) -> None:
    """Later signals are history, in their order, and change nothing (G8)."""
    built = build(emit("a"), hang())
    reader = aiter(built.session)
    assert await anext(reader) == "a"
    built.session.terminate(Cause.OPERATOR_CANCEL, "first")
    built.session.cancel("second")
    built.session.disconnected("third")
    built.session.cancel("fourth")
    with pytest.raises(StopAsyncIteration):
        await anext(reader)
    receipt = await built.session.receipt()
    assert (receipt.cause, receipt.detail) == (Cause.OPERATOR_CANCEL, "first")
    assert [signal.detail for signal in receipt.history[:4]] == [
        "first",
        "second",
        "third",
        "fourth",
    ]


async def test_nothing_is_taken_after_the_seal(build: Build) -> None:
    """A receipt that exists never changes, whatever is called afterwards (G11)."""
    built = build(emit("a"))
    assert [chunk async for chunk in built.session] == ["a"]
    receipt = await built.session.receipt()
    for _ in range(2):
        built.session.cancel("too late")
        built.session.disconnected("too late")
        built.session.reconnected()
        built.session.terminate(Cause.BUDGET)
        built.session.finish("stop")
        await built.session.aclose()
    assert await built.session.shutdown() is receipt
    assert built.session.sealed is receipt
    assert built.session.cause is Cause.COMPLETED


async def test_cancel_before_start_never_calls_the_producer(
    build: Build, read_all: ReadAll
) -> None:
    """What is cut off before it began costs nothing, and a reader gets EOS."""
    ledger = MemoryLedger()
    built = build(emit("a"), ledger=ledger)
    built.session.cancel("changed my mind")
    assert built.session.cause is Cause.USER_CANCEL
    assert await read_all(built.session) == []
    receipt = await built.session.receipt()
    assert (receipt.cause, receipt.produced) == (Cause.USER_CANCEL, 0)
    assert built.played.begun == 0
    assert len(ledger.opened) == len(ledger.receipts) == 1


async def test_cancel_between_start_and_the_first_read(build: Build, read_all: ReadAll) -> None:
    """Nobody has read yet: the receipt waits for nobody."""
    built = build(hang(), ledger=MemoryLedger())
    built.session.start()
    built.session.cancel()
    receipt = await built.session.receipt()
    assert (receipt.cause, receipt.eos_delivered) == (Cause.USER_CANCEL, False)
    assert await read_all(built.session) == []
    assert built.played.begun == built.played.ended


async def test_cancel_after_completion_changes_nothing(build: Build) -> None:
    """The last chunk is committed and the producer has ended: a cancel comes too late."""
    built = build(emit("a"))
    consumer = ScriptedConsumer(read())
    await consumer.consume(built.session)
    built.session.cancel()
    assert (await built.session.receipt()).cause is Cause.COMPLETED


async def test_leaving_by_break(build: Build) -> None:
    """A dropped iterator is a disconnect; the producer is closed at once, whoever holds the session."""
    built = build(emit("a"), emit("b"), hang())
    async for chunk in built.session:
        assert chunk == "a"
        break
    receipt = await built.session.receipt()
    assert receipt.cause is Cause.CLIENT_DISCONNECT
    assert (receipt.consumed, receipt.eos_delivered) == (0, False)
    assert built.played.ended == 1


async def test_leaving_by_closing_the_iterator_is_deterministic(build_async: Build) -> None:
    """`aclose()` of the iterator returns when the disconnect was acted on, not when the collector runs."""
    built = build_async(emit("a"), hang())
    iterator = aiter(built.session)
    assert await anext(iterator) == "a"
    await iterator.aclose()
    assert built.session.statistics().consumer == "away"
    await built.session.aclose()
    assert (await built.session.receipt()).cause is Cause.CLIENT_DISCONNECT
    assert built.played.ended == 1


async def test_leaving_by_aclose(build: Build) -> None:
    """`session.aclose()` waits for the seal."""
    built = build(emit("a"), hang())
    iterator = aiter(built.session)
    assert await anext(iterator) == "a"
    await built.session.aclose()
    if built.session.statistics().cause is None:
        # Under grace the policy keeps it alive, until the grace is over.
        await asyncio.sleep(10)
    assert built.session.sealed is not None
    assert built.session.sealed.cause is Cause.CLIENT_DISCONNECT
    with pytest.raises(StopAsyncIteration):
        # Nothing is delivered to whoever has left.
        assert await anext(iterator) == "nothing"


async def test_aclose_before_start(build: Build) -> None:
    """A session that nobody ever started is closed without calling anybody, and is receipted."""
    ledger = MemoryLedger()
    built = build(emit("a"), ledger=ledger)
    await built.session.aclose()
    await built.session.aclose()
    assert built.session.sealed is not None
    assert built.session.sealed.cause is Cause.CLIENT_DISCONNECT
    assert built.played.begun == 0
    assert len(ledger.receipts) == 1


async def test_leaving_the_with_block_early(build: Build) -> None:
    """`async with` closes what was not read to its end."""
    built = build(emit("a"), emit("b"), hang())
    async with built.session as session:
        assert session is built.session
        assert await anext(aiter(session)) == "a"
    assert (await built.session.receipt()).cause is Cause.CLIENT_DISCONNECT


async def test_an_error_in_the_consumer_is_its_own(build: Build) -> None:
    """What is raised in the with block is CONSUMER_ERROR, by type alone, and comes out (G14)."""
    built = build(emit("a"), hang())
    consumer = ScriptedConsumer(read(1), raise_error(ValueError("secret")))

    async def consume() -> None:
        async with built.session:
            await consumer.consume(built.session)

    with pytest.raises(ValueError, match="secret"):
        await consume()
    receipt = await built.session.receipt()
    assert (receipt.cause, receipt.detail) == (Cause.CONSUMER_ERROR, "ValueError")
    assert "secret" not in repr(receipt)


async def test_the_task_is_cancelled_in_the_with_block(build: Build) -> None:
    """An outside cancellation is a disconnect, propagates, and leaves a receipt (G11)."""
    built = build(emit("a"), hang())

    async def consume() -> None:
        async with built.session as session:
            async for _ in session:
                pass

    task = asyncio.create_task(consume())
    await settled()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await built.session.receipt()).cause is Cause.CLIENT_DISCONNECT


async def test_shutdown_ends_what_nothing_else_ended(build: Build) -> None:
    """Shutdown is the fallback: its cause is the server's (G8, G14)."""
    built = build(emit("a"), hang())
    consumer = ScriptedConsumer(read())
    reading = asyncio.create_task(consumer.consume(built.session))
    await settled()
    receipt = await built.session.shutdown()
    assert (receipt.cause, receipt.party) == (Cause.SHUTDOWN, Party.SERVER)
    await reading
    assert consumer.received == ["a"]
    assert receipt.eos_delivered


async def test_shutdown_waits_for_a_stream_that_ends_by_itself(build: Build) -> None:
    """Within its grace a stream may complete, and then that is its cause."""
    built = build(emit("a"), wait(3), emit("b"))
    consumer = ScriptedConsumer(read())
    reading = asyncio.create_task(consumer.consume(built.session))
    await settled()
    receipt = await built.session.shutdown(grace=5)
    await reading
    assert receipt.cause is Cause.COMPLETED
    assert asyncio.get_running_loop().time() == 3


async def test_shutdown_after_its_grace(build: Build) -> None:
    """When the grace is over, it is over; a reader that does not read is not waited for."""
    built = build(emit("a"), emit("b"), hang())
    consumer = ScriptedConsumer(read(1), park())
    reading = asyncio.create_task(consumer.consume(built.session))
    await settled()
    receipt = await built.session.shutdown(grace=5)
    assert receipt.cause is Cause.SHUTDOWN
    assert asyncio.get_running_loop().time() == pytest.approx(5.05)
    consumer.unpark()
    await reading


async def test_shutdown_of_a_stream_that_never_began(build: Build) -> None:
    """It is started and ended in one step, and is receipted."""
    built = build(emit("a"), hang())
    assert (await built.session.shutdown()).cause is Cause.SHUTDOWN


async def test_shutdown_ends_a_drain() -> None:
    """A deploy does not wait for a drain of minutes; the cause stays the disconnect's."""
    session = StreamSession(ScriptedProducer(emit("a"), hang()), on_disconnect=drain(600))
    assert await anext(aiter(session)) == "a"
    await settled()
    assert session.statistics().producer == "draining"
    receipt = await session.shutdown()
    assert (receipt.cause, receipt.close) == (Cause.CLIENT_DISCONNECT, CloseState.CONFIRMED)
    assert asyncio.get_running_loop().time() < 1


async def test_several_wait_for_the_receipt(build: Build) -> None:
    """Whoever waits for the seal gets the same receipt; one that gives up disturbs nobody."""
    built = build(hang())
    built.session.start()
    waiting = [asyncio.create_task(built.session.receipt()) for _ in range(3)]
    await settled()
    waiting[0].cancel()
    await settled()
    built.session.cancel()
    receipts = await asyncio.gather(*waiting[1:])
    assert receipts[0] is receipts[1] is built.session.sealed
    assert waiting[0].cancelled()


async def test_the_reader_asks_for_the_receipt_itself(build: Build) -> None:
    """A reader that asks has stopped reading: it does not wait for itself."""
    built = build(emit("a"), emit("b"), hang())
    async for _ in built.session:
        built.session.cancel("enough")
        receipt = await built.session.receipt()
        assert (receipt.cause, receipt.eos_delivered) == (Cause.USER_CANCEL, False)
        break
    assert asyncio.get_running_loop().time() < 5


async def test_a_reader_that_does_not_read_on_is_waited_for_bounded(build: Build) -> None:
    """After the cutoff a reader has the finalisation deadline to take the rest; then it counts as gone."""
    built = build(emit("a"), emit("b"), hang())
    consumer = ScriptedConsumer(read(1), stall(100), read())
    reading = asyncio.create_task(consumer.consume(built.session))
    await settled()
    built.session.cancel()
    receipt = await built.session.receipt()
    assert 30 <= asyncio.get_running_loop().time() < 45
    assert (receipt.cause, receipt.eos_delivered) == (Cause.USER_CANCEL, False)
    await reading


async def test_nobody_ever_reads_a_stream_that_completed(build_pushed: Build) -> None:
    """A pushed stream that fits into the buffers completes; its receipt waits a bounded time for a reader."""
    built = build_pushed(emit("a"))
    built.session.start()
    receipt = await built.session.receipt()
    assert (receipt.cause, receipt.committed, receipt.consumed) == (Cause.COMPLETED, 1, 0)
    assert asyncio.get_running_loop().time() == 30
    assert receipt.waste.value == 1
    assert [chunk async for chunk in built.session] == ["a"]


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


async def test_a_deaf_iterator_does_not_hold_a_batch_reader_for_ever() -> None:
    """`read_ready` on the pull path waits inside the iterator; when that is given up on, it is freed."""
    played = Played()
    session = StreamSession(scripted_iterator(ignore_cancel(), emit("a"), hang(), played=played))
    assert await session.read_ready() == ["a"]
    reader = asyncio.create_task(session.read_ready())
    await settled()
    session.cancel()
    assert await reader == []
    assert asyncio.get_running_loop().time() == 5
    receipt = await session.receipt()
    assert (receipt.close, receipt.eos_delivered) == (CloseState.UNCONFIRMED, True)
    played.deaf = False


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


async def test_leave_in_every_way(build: Build) -> None:
    """break, aclose, a cancelled task and a reported disconnect are all the reader's doing."""
    for how in ("break", "aclose", "cancel", "disconnected"):
        built = build(emit("a"), emit("b"), hang())
        consumer = ScriptedConsumer(read(1), leave(how))
        task = asyncio.create_task(consumer.consume(built.session))
        await asyncio.wait([task])
        receipt = await built.session.receipt()
        assert receipt.cause is Cause.CLIENT_DISCONNECT, how
        assert built.played.ended == 1


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
