"""Tests of the bounds of a stream's buffers, and of producers that do not wait (G4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from streamguard_core import AnyChunk, Cause, CutOffError, StreamSession
from streamguard_core.testing import (
    ScriptedConsumer,
    ScriptedProducer,
    ScriptedPull,
    big_chunk,
    emit,
    emit_late,
    emit_without_awaiting,
    fail,
    hang,
    read,
    scripted_iterator,
    settled,
    wait,
)

Build = Callable[..., Any]
ReadAll = Callable[[StreamSession], Coroutine[Any, Any, list[AnyChunk]]]
SMALL: dict[str, Any] = {"speculative_buffer_limit": 2, "max_inflight_commits": 2}


async def test_a_producer_that_never_awaits_is_cut_off() -> None:
    """What fits is taken, one may wait, the next one ends the stream with the producer's own cause."""
    producer = ScriptedProducer(emit_without_awaiting(*"abcdefgh"), hang())
    session = StreamSession(producer, **SMALL)
    session.start()
    receipt = await session.receipt()
    assert (receipt.cause, receipt.party) == (Cause.PRODUCER_OVERRUN, "PRODUCER")
    assert (receipt.produced, receipt.committed) == (4, 2)
    assert receipt.late == 4
    assert producer.played.refused == 3
    assert [chunk async for chunk in session] == ["a", "b"]


async def test_emitting_without_awaiting_is_fine_while_there_is_room(read_all: ReadAll) -> None:
    """`out` takes a chunk at the call; only where there is no room does awaiting matter."""
    session = StreamSession(ScriptedProducer(emit_without_awaiting(*"abcd")), **SMALL)
    assert await read_all(session) == list("abcd")
    assert (await session.receipt()).cause is Cause.COMPLETED


async def test_a_chunk_that_waits_unawaited_when_the_producer_returns() -> None:
    """It was emitted by somebody who never awaited: an overrun, no completion (G13)."""
    session = StreamSession(ScriptedProducer(emit_without_awaiting(*"abcde")), **SMALL)
    session.start()
    receipt = await session.receipt()
    assert (receipt.cause, receipt.produced, receipt.late) == (Cause.PRODUCER_OVERRUN, 4, 1)


async def test_a_chunk_that_waits_unawaited_when_the_producer_fails() -> None:
    """The failure is the cause; the chunk was generated, so it is counted (regression 14)."""
    session = StreamSession(ScriptedProducer(emit_without_awaiting(*"abcde"), fail()), **SMALL)
    session.start()
    receipt = await session.receipt()
    assert (receipt.cause, receipt.produced, receipt.late) == (Cause.PRODUCER_ERROR, 4, 1)


async def test_a_chunk_that_waits_unawaited_at_the_cutoff() -> None:
    """Counted as late, once (regression 14)."""
    session = StreamSession(ScriptedProducer(emit_without_awaiting(*"abcde"), hang()), **SMALL)
    session.start()
    await settled()
    session.cancel()
    receipt = await session.receipt()
    assert (receipt.cause, receipt.produced, receipt.late) == (Cause.USER_CANCEL, 4, 1)


async def test_a_chunk_that_waits_for_room_at_the_cutoff() -> None:
    """The producer had emitted it and was billed for it: it is counted as late (pitfall 31)."""
    session = StreamSession(ScriptedProducer(emit(*"abcde"), hang()), **SMALL)
    session.start()
    await settled()
    session.cancel()
    receipt = await session.receipt()
    assert (receipt.produced, receipt.late) == (4, 1)


async def test_the_rest_of_a_batch_at_the_cutoff(build_async: Build) -> None:
    """What a producer handed over at once and was not taken is late, on every path (pitfall 32)."""
    for own_task in (False, True):
        session = StreamSession(ScriptedPull(emit(*"abcdefgh"), hang()), own_task=own_task, **SMALL)
        iterator = aiter(session)
        assert await anext(iterator) == "a"
        await settled()
        session.cancel()
        async for _ in iterator:
            pass
        receipt = await session.receipt()
        assert receipt.produced + receipt.late == 8


async def test_the_rest_of_a_batch_when_nobody_reads_at_the_cutoff() -> None:
    """The reader of a batch is sending when the cutoff comes: what it has not been handed is late."""
    for ending in ("cancel", "shutdown"):
        session = StreamSession(ScriptedPull(emit(*"abc"), hang()))
        assert await anext(session.batches(1)) == ["a"]
        if ending == "cancel":
            session.cancel()
            receipt = await session.receipt()
        else:
            receipt = await session.shutdown()
        assert (receipt.produced, receipt.late) == (1, 2)


async def test_a_waiting_chunk_that_is_awaited_late(read_all: ReadAll) -> None:
    """An emitter may do something else before it awaits, as long as it emits nothing meanwhile."""

    class Busy:
        async def run(self, *, out: Any, cancel_event: Any) -> None:
            for word in "abcdef":
                emitted = out(word)
                await asyncio.sleep(1)
                await emitted

    session = StreamSession(Busy(), **SMALL)
    assert await read_all(session) == list("abcdef")
    assert (await session.receipt()).cause is Cause.COMPLETED


async def test_a_waiting_chunk_that_is_awaited_after_an_overrun_is_late_once() -> None:
    """Every chunk is accepted, or refused and counted once (G2)."""
    refused: list[str] = []

    class Careless:
        async def run(self, *, out: Any, cancel_event: Any) -> None:
            for word in "abcd":
                await out(word)
            waiting = out("e")
            try:
                out("f")
            except CutOffError:
                refused.append("f")
            try:
                await waiting
            except CutOffError:
                refused.append("e")

    session = StreamSession(Careless(), **SMALL)
    session.start()
    receipt = await session.receipt()
    assert refused == ["f", "e"]
    assert (receipt.produced, receipt.late) == (4, 2)


async def test_emitting_after_return() -> None:
    """A task that outlives `run()` commits nothing: after the producer's end every chunk is late (G2)."""
    producer = ScriptedProducer(emit(*"abc"), emit_late("x", "y"))
    session = StreamSession(producer, speculative_buffer_limit=8, max_inflight_commits=1)
    session.start()
    await settled()
    # The end is known, not all is committed: the stream is live, and takes nothing more.
    assert session.cause is None
    assert producer.played.refused == 2
    assert [chunk async for chunk in session] == ["a", "b", "c"]
    receipt = await session.receipt()
    assert (receipt.cause, receipt.produced, receipt.late) == (Cause.COMPLETED, 3, 2)


async def test_emitting_after_the_seal() -> None:
    """The receipt exists and stays as it is; the emitter is told."""
    producer = ScriptedProducer(emit("a"), emit_late("x"))
    session = StreamSession(producer)
    consumer = ScriptedConsumer(read())
    await consumer.consume(session)
    receipt = await session.receipt()
    await settled()
    assert consumer.received == ["a"]
    assert producer.played.refused == 1
    assert session.sealed is receipt


async def test_a_big_chunk_is_cut_off_where_it_would_be_buffered() -> None:
    """A chunk larger than the whole buffer never fits; waiting for room would be for ever."""
    session = StreamSession(ScriptedProducer(emit("a"), big_chunk(10 << 20), hang()))
    assert [chunk async for chunk in session] == ["a"]
    receipt = await session.receipt()
    assert receipt.cause is Cause.PRODUCER_OVERRUN
    assert "does not fit into max_buffer_bytes" in receipt.detail
    assert (receipt.produced, receipt.late) == (1, 1)


async def test_a_big_chunk_passes_where_nothing_is_buffered() -> None:
    """A pulled chunk goes straight from the producer to the reader."""
    session = StreamSession(scripted_iterator(big_chunk(10 << 20)))
    assert [len(str(chunk)) async for chunk in session] == [10 << 20]
    assert (await session.receipt()).cause is Cause.COMPLETED


async def test_bytes_are_bounded_as_well_as_chunks(read_all: ReadAll) -> None:
    """A producer of large chunks waits before the count is reached."""
    producer = ScriptedProducer(*(emit("x" * 400) for _ in range(10)))
    session = StreamSession(producer, max_buffer_bytes=1000)
    session.start()
    await settled()
    assert session.statistics().buffered_bytes == 800
    assert session.statistics().produced == 2
    assert len(await read_all(session)) == 10
    assert session.statistics().buffered_bytes == 0
    assert (await session.receipt()).cause is Cause.COMPLETED


async def test_bytes_are_utf8_bytes() -> None:
    """An emoji counts as four."""
    session = StreamSession(ScriptedProducer(*(emit("🙂") for _ in range(10))), max_buffer_bytes=10)
    session.start()
    await settled()
    assert (session.statistics().produced, session.statistics().buffered_bytes) == (2, 8)
    assert len([chunk async for chunk in session]) == 10
    await session.receipt()


@pytest.mark.parametrize(("speculative", "inflight"), [(1, 1), (1, 16), (8, 1), (3, 5)])
async def test_bounds_hold_at_every_instant(
    speculative: int, inflight: int, read_all: ReadAll
) -> None:
    """Looked at after every emission and every read, with a reader slower than the producer."""
    seen: list[tuple[int, int]] = []

    class Watched:
        async def run(self, *, out: Any, cancel_event: Any) -> None:
            for number in range(50):
                await out(str(number))
                look()

    session = StreamSession(
        Watched(), speculative_buffer_limit=speculative, max_inflight_commits=inflight
    )

    def look() -> None:
        statistics = session.statistics()
        seen.append((statistics.speculative, statistics.inflight))
        assert statistics.produced >= statistics.committed >= statistics.consumed

    session.start()
    await settled()
    assert seen[-1] == (speculative, inflight) or len(seen) == 50
    assert await read_all(session) == [str(number) for number in range(50)]
    assert max(spec for spec, _ in seen) <= speculative
    assert max(flight for _, flight in seen) <= inflight
    await session.receipt()


async def test_the_first_token_is_not_delayed(build: Build) -> None:
    """A chunk is handed over in the instant in which it is produced (pitfall 41)."""
    built = build(wait(3), emit("a"), wait(100), emit("b"))
    for expected in (3, 103):
        batch = await built.session.read_ready()
        assert len(batch) == 1
        assert asyncio.get_running_loop().time() == expected
    await built.session.aclose()
