"""Tests of chunks from threads: emitted by a producer from one, late ones, and threads that outlive the loop."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from streamguard_core import (
    AnyChunk,
    Cause,
    MemoryLedger,
    StreamSession,
)
from streamguard_core.testing import (
    Played,
    ScriptedConsumer,
    ScriptedProducer,
    emit,
    emit_from_thread,
    emit_late,
    emit_without_awaiting,
    fail,
    hang,
    jumping_loop,
    read,
    scripted_blocking,
    settled,
)

ReadAll = Callable[[StreamSession], Coroutine[Any, Any, list[AnyChunk]]]


async def test_emitting_from_a_thread(read_all: ReadAll) -> None:
    """`out` may be called from any thread; chunks come in the order of the calls."""
    session = StreamSession(ScriptedProducer(emit("a"), emit_from_thread("b", "c"), emit("d")))
    assert await read_all(session) == ["a", "b", "c", "d"]
    assert (await session.receipt()).cause is Cause.COMPLETED


async def test_emitting_from_a_thread_without_room_is_an_overrun() -> None:
    """A thread cannot be made to wait: it is cut off with its own cause (G4)."""
    session = StreamSession(
        ScriptedProducer(emit_from_thread(*"abcdef"), hang()),
        speculative_buffer_limit=1,
        max_inflight_commits=1,
    )
    session.start()
    consumer = ScriptedConsumer(read())
    reading = asyncio.create_task(consumer.consume(session))
    receipt = await session.receipt()
    await reading
    assert receipt.cause is Cause.PRODUCER_OVERRUN
    assert "from a thread" in receipt.detail
    assert receipt.produced + receipt.late <= 6
    assert consumer.received == list("abcdef"[: receipt.committed])


async def test_emitting_from_a_thread_after_the_cutoff_is_late() -> None:
    """There is nobody to tell; the chunk is counted (G2)."""

    class Foreign:
        async def run(self, *, out: Any, cancel_event: Any) -> None:
            try:
                await cancel_event.wait()
            finally:
                thread = threading.Thread(target=out, args=("late",))
                thread.start()
                thread.join()
                await asyncio.sleep(0.1)

    session = StreamSession(Foreign())
    session.start()
    await settled()
    session.cancel()
    receipt = await session.receipt()
    assert (receipt.produced, receipt.late) == (0, 1)


async def test_a_thread_that_emits_what_is_no_chunk_is_told() -> None:
    """The mistake is raised where it was made, in the thread."""
    raised: list[BaseException] = []

    class Foreign:
        async def run(self, *, out: Any, cancel_event: Any) -> None:
            def work() -> None:
                try:
                    out(5)
                except Exception as error:  # noqa: BLE001 - handed to the test
                    raised.append(error)

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

    session = StreamSession(Foreign())
    assert [chunk async for chunk in session] == []
    assert "a int was emitted; a chunk is a str" in str(raised[0])
    await session.receipt()


async def test_late_chunks_of_a_thread(read_all: ReadAll) -> None:
    """A generator that goes on after its transport was closed finds its chunk refused."""
    played = Played()
    script = [emit("a"), hang(), emit("b"), emit_late("c")]
    session = StreamSession(scripted_blocking(*script, played=played))
    session.on_close(played.release)
    reading = asyncio.create_task(read_all(session))
    await settled()
    session.cancel()
    assert await reading == ["a"]
    receipt = await session.receipt()
    assert (receipt.produced, receipt.late) == (1, 1)


async def test_a_failing_thread_ends_the_stream(read_all: ReadAll) -> None:
    """What it raises is the producer's error, after the chunks before it."""
    session = StreamSession(scripted_blocking(emit("a", "b"), fail()))
    assert await read_all(session) == ["a", "b"]
    assert (await session.receipt()).cause is Cause.PRODUCER_ERROR


@pytest.mark.filterwarnings("ignore:.*dropped without being closed:ResourceWarning")
def test_a_thread_outlives_its_loop() -> None:
    """The loop is closed in mid-stream: the thread ends at its next chunk and disturbs nobody."""
    played, ended = Played(), threading.Event()
    ledger, before = MemoryLedger(), set(threading.enumerate())

    class Words:
        def __iter__(self) -> Iterator[AnyChunk]:
            yield from scripted_blocking(emit("a"), hang(), emit("b"), emit("c"), played=played)

        def close(self) -> None: ...

    def watched() -> Iterator[AnyChunk]:
        try:
            yield from Words()
        finally:
            ended.set()

    async def main() -> None:
        session = StreamSession(watched(), ledger=ledger)
        async for _ in session:
            # The thread has gone on, and hangs.
            await settled()
            break
        await settled()

    loop = jumping_loop()
    loop.run_until_complete(main())
    loop.close()
    assert not ended.is_set()
    played.release()
    assert ended.wait(10)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    # The timer of the close deadline held the session; its loop is gone.
    gc.collect()
    assert len(ledger.receipts) == 1


async def test_a_chunk_from_a_thread_does_not_overtake_one_that_waits() -> None:
    """A chunk that nobody awaits is late, and so is what is emitted behind it: the stream has no gap (G2)."""
    script = [emit_without_awaiting("a", "b", "c"), emit_from_thread("d")]
    session = StreamSession(
        ScriptedProducer(*script), speculative_buffer_limit=1, max_inflight_commits=1
    )
    assert [chunk async for chunk in session] == ["a", "b"]
    receipt = await session.receipt()
    assert (receipt.cause, receipt.late) == (Cause.PRODUCER_OVERRUN, 2)
