"""Tests of cancellation hygiene: ours is taken back, an outside one propagates, nobody is cancelled by us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from streamguard_core import AnyChunk, Cause, StreamSession, drain
from streamguard_core.testing import (
    Played,
    ScriptedProducer,
    emit,
    hang,
    ignore_cancel,
    raise_in_finally,
    scripted_iterator,
    settled,
)

Build = Callable[..., Any]
ReadAll = Callable[[StreamSession], Coroutine[Any, Any, list[AnyChunk]]]


def cancelling() -> int:
    """How many cancellations of the running task are pending."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_our_cancellations_are_taken_back(build: Build, read_all: ReadAll) -> None:
    """A cutoff interrupts the reader inside the producer, and leaves its task as it was (pitfall 13)."""
    built = build(emit("a"), hang())

    async def consume() -> int:
        asyncio.get_running_loop().call_later(1, built.session.cancel)
        await read_all(built.session)
        await asyncio.sleep(1)  # not interrupted
        return cancelling()

    assert await asyncio.create_task(consume()) == 0
    await built.session.receipt()


async def test_an_outside_cancellation_propagates(build: Build, read_all: ReadAll) -> None:
    """A reader whose task is cancelled sees it; the stream ends as a disconnect."""
    built = build(emit("a"), hang())
    task = asyncio.create_task(read_all(built.session))
    await settled()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (await built.session.receipt()).cause is Cause.CLIENT_DISCONNECT


async def test_an_outside_cancellation_in_the_turn_of_ours_propagates(
    build: Build, read_all: ReadAll
) -> None:
    """Both at once, in either order: the outside one still gets through, ours is taken back."""
    for first in ("ours", "theirs"):
        built = build(emit("a"), hang())
        seen: list[int] = []

        async def consume(built: Any = built, seen: list[int] = seen) -> None:
            try:
                await read_all(built.session)
            finally:
                seen.append(cancelling())

        task = asyncio.create_task(consume())
        await settled()
        if first == "theirs":
            task.cancel()
        built.session.cancel()
        if first == "ours":
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert seen == [1]
        assert (await built.session.receipt()).cause is Cause.USER_CANCEL


async def test_the_readers_task_is_not_cancelled_between_two_steps(build: Build) -> None:
    """A cutoff while the reader works on a chunk never interrupts the reader's own code."""
    built = build(emit("a"), emit("b"), hang())
    received = []
    async for chunk in built.session:
        asyncio.get_running_loop().call_later(1, built.session.cancel)
        await asyncio.sleep(5)
        received.append(chunk)
    assert cancelling() == 0
    # Only what was committed when the cutoff came is delivered.
    assert received in (["a"], ["a", "b"])
    assert len(received) == (await built.session.receipt()).committed


async def test_a_producer_that_raises_cancelled_error_is_at_fault(
    build_async: Build, read_all: ReadAll
) -> None:
    """A CancelledError that nobody asked for is the producer's failure, no completion and no disconnect (G14)."""
    from streamguard_core.testing import fail

    built = build_async(emit("a"), fail(asyncio.CancelledError()))
    assert await read_all(built.session) == ["a"]
    receipt = await built.session.receipt()
    assert (receipt.cause, receipt.detail) == (Cause.PRODUCER_ERROR, "CancelledError")
    assert cancelling() == 0


async def test_a_producer_whose_task_is_cancelled_from_outside(read_all: ReadAll) -> None:
    """A loop that ends cancels every task; a stream that this cuts is no success (regression 18)."""
    producer = ScriptedProducer(emit("a"), hang())
    before = asyncio.all_tasks()
    session = StreamSession(producer)
    session.start()
    await settled()
    (task,) = asyncio.all_tasks() - before
    task.cancel()
    assert await read_all(session) == ["a"]
    receipt = await session.receipt()
    assert (receipt.cause, receipt.party) == (Cause.SHUTDOWN, "SERVER")


async def test_a_producer_that_swallows_the_interruption_and_ends(build_async: Build) -> None:
    """A producer may catch the cancellation and end by itself: that confirms its end."""

    async def polite() -> AsyncIterator[str]:
        yield "a"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

    session = StreamSession(polite())
    asyncio.get_running_loop().call_later(1, session.cancel)
    assert [chunk async for chunk in session] == ["a"]
    assert cancelling() == 0
    assert (await session.receipt()).close == "confirmed"


async def test_a_producer_that_turns_the_interruption_into_an_error(read_all: ReadAll) -> None:
    """The error is history: the cause was fixed before."""

    async def translating() -> AsyncIterator[str]:
        yield "a"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError from None

    session = StreamSession(translating())
    asyncio.get_running_loop().call_later(1, session.cancel)
    assert await read_all(session) == ["a"]
    assert cancelling() == 0
    receipt = await session.receipt()
    assert [signal.detail for signal in receipt.history] == ["", "ConnectionError"]


async def test_a_producer_that_swallows_and_emits_on_is_closed(read_all: ReadAll) -> None:
    """An iterator that answers its interruption with chunks is closed, and the chunk is late (G2)."""
    closed: list[int] = []

    async def stubborn() -> AsyncIterator[str]:
        try:
            while True:
                try:
                    yield "a"
                    await asyncio.sleep(10)
                except asyncio.CancelledError:
                    pass
        finally:
            closed.append(1)

    session = StreamSession(stubborn())
    asyncio.get_running_loop().call_later(1, session.cancel)
    assert await read_all(session) == ["a"]
    receipt = await session.receipt()
    assert (receipt.late, receipt.close) == (1, "confirmed")
    assert closed == [1]


async def test_a_deaf_iterator_in_its_own_task_does_not_hold_the_reader() -> None:
    """That is what `own_task` is for: the reader wakes at once, whatever the iterator does."""
    played = Played()
    session = StreamSession(
        scripted_iterator(ignore_cancel(), emit("a"), hang(), played=played), own_task=True
    )
    asyncio.get_running_loop().call_later(1, session.cancel)
    assert [chunk async for chunk in session] == ["a"]
    assert asyncio.get_running_loop().time() == 1
    await session.receipt()
    played.deaf = False


async def test_a_drain_that_is_stopped_by_its_bound(build: Build) -> None:
    """The drain's own interruption is not the producer's failure."""
    session = StreamSession(scripted_iterator(emit("a"), hang()), on_disconnect=drain(5))
    async for _ in session:
        break
    receipt = await session.receipt()
    assert (receipt.cause, len(receipt.history)) == (Cause.CLIENT_DISCONNECT, 1)
    assert asyncio.get_running_loop().time() == 5


async def test_an_outside_cancellation_gets_through_a_clean_up_that_fails(
    build: Build, read_all: ReadAll
) -> None:
    """The producer's own error takes the place of the cancellation; the reader is cancelled all the same."""
    for also_cut in (False, True):
        built = build(raise_in_finally(OSError()), emit("a"), hang())
        task = asyncio.create_task(read_all(built.session))
        await settled()
        task.cancel()
        if also_cut:
            built.session.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        receipt = await built.session.receipt()
        expected = Cause.USER_CANCEL if also_cut else Cause.CLIENT_DISCONNECT
        assert receipt.cause is expected


async def test_a_reader_that_was_cancelled_before_may_read_on(build: Build) -> None:
    """A task that swallowed an earlier cancellation is not cancelled again by a cutoff, nor by a failure."""
    from streamguard_core.testing import fail

    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    assert cancelling() == 1
    for script in ([emit("a"), hang()], [emit("a"), fail()], [emit("a")]):
        built = build(*script)
        asyncio.get_running_loop().call_later(1, built.session.cancel)
        assert [chunk async for chunk in built.session] == ["a"]
        assert cancelling() == 1
        await built.session.receipt()
    task.uncancel()
