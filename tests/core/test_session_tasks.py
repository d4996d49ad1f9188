"""Tests of readers under timeouts, groups and scopes, and of steps that run in tasks of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from streamguard_core import AnyChunk, Cause, StreamSession, grace
from streamguard_core.testing import (
    ScriptedConsumer,
    emit,
    hang,
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


async def impatient(*, first: str = "ab") -> AsyncIterator[str]:
    """Chunks that come together, then a silence that it has a timeout of its own for."""
    for chunk in first:
        yield chunk
    try:
        async with asyncio.timeout(5):
            await asyncio.Event().wait()
    except TimeoutError:
        yield "timed out"


@pytest.mark.parametrize("way", ["read_ready", "batches", "beside"])
async def test_a_timeout_inside_the_producer_never_hits_a_reader_that_sends(way: str) -> None:
    """What the producer waits for between two batches is no matter of the reader's own code (G14)."""
    sent: list[Any] = []

    async def send(batch: list[AnyChunk]) -> None:
        await asyncio.sleep(10)  # a slow client
        sent.extend(batch)

    async def serve() -> None:
        if way == "read_ready":
            while batch := await session.read_ready():
                await send(batch)
        else:
            async for batch in session.batches(beside=way == "beside"):
                sending = send(batch)
                await (session.beside(sending) if session.reads_ahead else sending)

    session = StreamSession(impatient(first="abc"))
    await asyncio.create_task(serve())
    receipt = await session.receipt()
    assert sent == [*"abc", "timed out"]
    assert (receipt.cause, receipt.consumed) == (Cause.COMPLETED, 4)
