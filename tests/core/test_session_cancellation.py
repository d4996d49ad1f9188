"""Tests of cancellation hygiene: ours is taken back, an outside one propagates, nobody is cancelled by us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from streamguard_core import AnyChunk, Cause, StreamSession, drain, grace
from streamguard_core.testing import (
    Played,
    ScriptedConsumer,
    ScriptedProducer,
    emit,
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


async def test_wait_for_around_every_step(build: Build) -> None:
    """On Python 3.11 `wait_for` runs each step in a task of its own; the cutoff finds the right one."""
    built = build(emit("a"), emit("b"), wait(1), emit("c"), hang())
    asyncio.get_running_loop().call_later(2, built.session.cancel)
    consumer = ScriptedConsumer(read(within=60))
    await consumer.consume(built.session)
    assert consumer.received == ["a", "b", "c"]
    assert consumer.eos == 1
    assert asyncio.get_running_loop().time() == 2
    assert cancelling() == 0
    assert (await built.session.receipt()).cause is Cause.USER_CANCEL


async def test_wait_for_that_times_out_is_a_disconnect_and_no_more(build: Build) -> None:
    """The policy decides what the lost step means; under cancel the stream is over (pitfall 8)."""
    built = build(emit("a"), hang())
    iterator = aiter(built.session)
    assert await asyncio.wait_for(anext(iterator), 1) == "a"
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(anext(iterator), 1)
    receipt = await built.session.receipt()
    assert receipt.cause is Cause.CLIENT_DISCONNECT
    assert cancelling() == 0


async def test_wait_for_that_times_out_under_grace_loses_nothing() -> None:
    """The iterator is destroyed by `wait_for`, the stream is not: a new reader goes on (pitfall 8)."""
    session = StreamSession(
        scripted_iterator(emit("a"), wait(5), emit("b"), wait(5), emit("c")),
        on_disconnect=grace(30),
    )
    assert await anext(aiter(session)) == "a"
    # The first iterator was dropped with "a" in hand; whoever reads on gets it again.
    read_again: list[AnyChunk] = []
    while session.cause is None:
        iterator = aiter(session)
        try:
            while True:
                read_again.append(await asyncio.wait_for(anext(iterator), 2))
        except (TimeoutError, StopAsyncIteration):
            pass
    assert list(dict.fromkeys(read_again)) == ["a", "b", "c"]
    receipt = await session.receipt()
    assert (receipt.cause, receipt.produced, receipt.consumed) == (Cause.COMPLETED, 3, 3)


async def test_asyncio_timeout_around_the_reader(build: Build, read_all: ReadAll) -> None:
    """`asyncio.timeout` cancels the reader's task, and gets its own cancellation back."""
    built = build(emit("a"), hang())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await read_all(built.session)
    assert cancelling() == 0
    assert (await built.session.receipt()).cause is Cause.CLIENT_DISCONNECT


async def test_a_task_group_around_the_reader(build: Build, read_all: ReadAll) -> None:
    """A sibling's failure cancels the reader, and the group reports the failure alone (pitfall 13)."""
    built = build(emit("a"), hang())

    async def fail() -> None:
        await asyncio.sleep(1)
        raise ValueError

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(read_all(built.session))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        await together()
    assert [type(error) for error in caught.value.exceptions] == [ValueError]
    assert (await built.session.receipt()).cause is Cause.CLIENT_DISCONNECT


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


async def test_a_timeout_inside_the_producer_stays_there() -> None:
    """`asyncio.timeout` inside the producer times the producer out, on every path."""

    async def impatient() -> AsyncIterator[str]:
        yield "a"
        try:
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        except TimeoutError:
            yield "timed out"

    for own_task in (False, True):
        session = StreamSession(impatient(), own_task=own_task)
        assert [chunk async for chunk in session] == ["a", "timed out"]
        assert cancelling() == 0
        await session.receipt()


async def test_anyio_scopes_around_the_reader(build: Build, read_all: ReadAll) -> None:
    """AnyIO cancels its tasks again and again until they leave the scope; the stream is sealed (pitfall 14)."""
    anyio = pytest.importorskip("anyio")
    built = build(emit("a"), hang())
    with anyio.move_on_after(3) as scope:
        async with built.session:
            await read_all(built.session)
    assert scope.cancelled_caught
    assert cancelling() == 0
    assert (await built.session.receipt()).cause is Cause.CLIENT_DISCONNECT


async def test_an_anyio_task_group_around_the_reader(build: Build, read_all: ReadAll) -> None:
    """The way an ASGI server's middleware runs a response: the listener cancels the group's scope."""
    anyio = pytest.importorskip("anyio")
    built = build(emit("a"), hang())

    async def consume() -> None:
        async with built.session:
            await read_all(built.session)

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        await asyncio.sleep(2)
        group.cancel_scope.cancel()
    assert (await built.session.receipt()).cause is Cause.CLIENT_DISCONNECT


async def test_an_anyio_scope_inside_the_producer(build_async: Build) -> None:
    """A pulled producer may hold a scope open across its waits, and is still interrupted cleanly."""
    anyio = pytest.importorskip("anyio")

    async def scoped() -> AsyncIterator[str]:
        yield "a"
        with anyio.fail_after(60):
            await asyncio.Event().wait()

    for cut in (StreamSession.cancel, StreamSession.disconnected):
        for own_task in (False, True):
            session = StreamSession(scoped(), own_task=own_task)
            asyncio.get_running_loop().call_later(1, cut, session)
            assert [chunk async for chunk in session] == ["a"]
            assert cancelling() == 0
            receipt = await session.receipt()
            assert len(receipt.history) == 1


async def test_reading_in_another_task_each_time(build: Build) -> None:
    """The reader's steps may run in different tasks, one after the other."""
    built = build(emit("a"), wait(1), emit("b"), hang())
    iterator = aiter(built.session)
    for expected in "ab":
        assert await asyncio.create_task(anext(iterator)) == expected
    last = asyncio.create_task(anext(iterator, "EOS"))
    await settled()
    built.session.cancel()
    assert await last == "EOS"
    await built.session.receipt()


async def test_a_cut_between_two_tasks_steps(build: Build) -> None:
    """A step whose task has not begun when the cutoff comes finds EOS."""
    built = build(emit("a"), emit("b"), hang())
    iterator = aiter(built.session)
    assert await anext(iterator) == "a"
    step = asyncio.create_task(anext(iterator, "EOS"))
    built.session.cancel()
    assert await step in {"EOS", "b"}
    await built.session.aclose()
    assert (await built.session.receipt()).cause is Cause.USER_CANCEL


async def test_cancelling_the_waiter_for_room(build: Build) -> None:
    """A producer's own task may be cancelled while it waits for room; the others get the room."""
    results: list[str] = []

    class Several:
        async def run(self, *, out: Any, cancel_event: Any) -> None:
            async def emitter(word: str) -> None:
                await out(word)
                results.append(word)

            tasks = [asyncio.create_task(emitter(word)) for word in "abcde"]
            await asyncio.sleep(1)
            tasks[2].cancel()
            await asyncio.wait(tasks)

    session = StreamSession(Several(), speculative_buffer_limit=1, max_inflight_commits=1)
    session.start()
    await asyncio.sleep(2)
    assert [chunk async for chunk in session] == ["a", "b", "d", "e"]
    receipt = await session.receipt()
    assert (receipt.cause, receipt.late) == (Cause.COMPLETED, 0)


async def test_room_that_was_given_to_a_cancelled_waiter_goes_to_the_next() -> None:
    """Told of room and cancelled in the same turn: the next in line is told (G5)."""

    class Several:
        async def run(self, *, out: Any, cancel_event: Any) -> None:
            async def emitter(word: str) -> None:
                await out(word)

            self.tasks = [asyncio.create_task(emitter(word)) for word in "abcd"]
            await asyncio.wait(self.tasks)

    producer = Several()
    session = StreamSession(producer, speculative_buffer_limit=1, max_inflight_commits=1)
    iterator = aiter(session)
    assert await anext(iterator) == "a"
    await settled()
    step = asyncio.create_task(anext(iterator))  # frees room for "c"
    await asyncio.sleep(0)
    producer.tasks[2].cancel()
    assert await step == "b"
    assert await anext(iterator) == "d"
    await settled()
    assert [chunk async for chunk in iterator] == []
    assert (await session.receipt()).cause is Cause.COMPLETED


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
