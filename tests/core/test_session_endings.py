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
    drain,
)
from streamguard_core.testing import (
    ScriptedConsumer,
    ScriptedProducer,
    emit,
    hang,
    leave,
    park,
    raise_error,
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


@pytest.mark.parametrize("cut", [True, False])
async def test_what_was_opened_before_a_session_that_never_starts_is_closed(cut: bool) -> None:
    """Nobody has run it; also where something else has ended the stream before (G10)."""
    closed: list[str] = []

    async def opened() -> AsyncIterator[str]:
        try:
            yield "a"
            yield "b"
        finally:
            closed.append("closed")

    source = opened()
    await anext(source)
    session = StreamSession(source)
    if cut:
        session.cancel()
    await session.aclose()
    assert closed == ["closed"]
    assert session.cause is (Cause.USER_CANCEL if cut else Cause.CLIENT_DISCONNECT)
