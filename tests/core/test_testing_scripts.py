"""Tests of the scripted producers and consumers that users get for their own tests."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from streamguard_core import Cause, StreamSession, TruncatedStream, UsageError
from streamguard_core.testing import (
    ManualClock,
    Played,
    ScriptedConsumer,
    ScriptedProducer,
    ScriptedPull,
    big_chunk,
    call,
    emit,
    emit_from_thread,
    emit_late,
    emit_without_awaiting,
    fail,
    finish,
    hang,
    ignore_cancel,
    leave,
    park,
    raise_error,
    raise_in_finally,
    read,
    read_batches,
    read_ready,
    scripted_blocking,
    scripted_iterator,
    second_reader,
    settled,
    stall,
    truncate,
    wait,
)


def test_words_are_values() -> None:
    """Two scripts that say the same are equal, and can be shown."""
    assert [emit("a"), wait(1), hang()] == [emit("a"), wait(1), hang()]
    assert "chunks=('a',)" in repr(emit("a"))
    assert len(big_chunk(5).chunks[0]) == 5
    assert len(big_chunk().chunks[0]) == 10 << 20
    assert isinstance(truncate().error, TruncatedStream)
    assert isinstance(fail().error, ConnectionError)
    assert isinstance(raise_in_finally().error, RuntimeError)
    assert isinstance(raise_error().error, RuntimeError)


async def test_played_counts_what_happened() -> None:
    """Begun, accepted, ended: what a test asks about."""
    producer = ScriptedProducer(emit("a", "b"), wait(1))
    session = StreamSession(producer)
    assert [chunk async for chunk in session] == ["a", "b"]
    played = producer.played
    assert (played.begun, played.accepted, played.refused, played.ended) == (1, 2, 0, 1)
    assert played.interrupted == 0
    await session.receipt()


async def test_an_iterator_counts_what_was_asked_past() -> None:
    """A chunk counts as accepted when the next one is asked for."""
    played = Played()
    iterator = scripted_iterator(emit("a"), emit("b"), played=played)
    assert await anext(iterator) == "a"
    assert played.accepted == 0
    assert await anext(iterator) == "b"
    assert played.accepted == 1
    await iterator.aclose()
    assert (played.begun, played.ended) == (1, 1)


async def test_pulled_words() -> None:
    """Each emit is one batch, an empty one too; the misbehaviours of a push producer are plain emits."""
    script = [emit("a", "b"), emit(), emit_without_awaiting("c"), emit_from_thread("d", "e")]
    session = StreamSession(ScriptedPull(*script))
    batches = [batch async for batch in ScriptedPull(*script).stream(report=session)]
    assert batches == [["a", "b"], [], ["c"], ["d", "e"]]
    await session.aclose()


async def test_an_iterator_reports_only_where_it_can() -> None:
    """`finish()` needs a report; `call()` gets it, or None."""
    seen: list[object] = []
    with pytest.raises(
        UsageError, match=r"finish.. stands in a script that has no report; give report=session"
    ):
        await anext(scripted_iterator(finish()))
    assert await anext(scripted_iterator(call(seen.append)), "EOS") == "EOS"
    session = StreamSession()
    iterator = scripted_iterator(call(seen.append), finish("length"), report=session)
    assert await anext(iterator, "EOS") == "EOS"
    assert seen == [None, session]
    await session.aclose()


async def test_answering_an_interruption_with_chunks() -> None:
    """`emit_late` in an iterator: it yields instead of ending."""
    iterator = scripted_iterator(emit("a"), emit_late("x", "y"), hang())
    assert await anext(iterator) == "a"
    step = asyncio.ensure_future(anext(iterator))
    await settled()
    step.cancel()
    assert await step == "x"
    assert await anext(iterator) == "y"
    assert await anext(iterator, "EOS") == "EOS"


async def test_raising_in_finally() -> None:
    """However the end comes, that is what is raised."""
    for ending in ("end", "close", "error"):
        script = [raise_in_finally(OSError()), emit("a")] + ([fail()] if ending == "error" else [])
        iterator = scripted_iterator(*script)
        assert await anext(iterator) == "a"
        with pytest.raises(OSError):  # noqa: PT011 - any
            await (iterator.aclose() if ending == "close" else anext(iterator))


async def test_a_deaf_producer_goes_on_with_what_was_interrupted() -> None:
    """`ignore_cancel` swallows every cancellation, and notes them."""
    played = Played()
    iterator = scripted_iterator(ignore_cancel(), wait(5), emit("a"), played=played)
    step = asyncio.ensure_future(anext(iterator))
    for _ in range(3):
        await settled()
        step.cancel()
    assert await step == "a"
    assert played.interrupted == 3
    await iterator.aclose()


def test_a_blocking_script_waits_on_the_clock_it_is_given() -> None:
    """Without a loop: a ManualClock is advanced; without both, real time passes."""
    clock, played = ManualClock(), Played()
    words = scripted_blocking(emit("a"), wait(3600), emit("b"), played=played, clock=clock)
    assert list(words) == ["a", "b"]
    assert clock.monotonic_ns() == 3600 * 10**9
    assert (played.begun, played.accepted, played.ended) == (1, 2, 1)
    began = time.monotonic()
    assert list(scripted_blocking(wait(0.001), emit("a"))) == ["a"]
    assert time.monotonic() - began >= 0.001


async def test_a_blocking_script_waits_on_the_loops_clock() -> None:
    """In a thread beside a jumping loop its waits are virtual."""
    words = scripted_blocking(wait(3600), emit("a"), emit_late("z"))
    assert await asyncio.to_thread(list, words) == ["a", "z"]
    assert asyncio.get_running_loop().time() == 3600


def test_a_blocking_script_hangs_until_it_is_released() -> None:
    """As a read does until its socket is closed; released before, it does not hang at all."""
    played = Played()
    words = scripted_blocking(hang(), emit("a"), fail(), played=played)
    threading.Timer(0, played.release).start()
    assert next(words) == "a"
    with pytest.raises(ConnectionError):
        next(words)
    assert list(scripted_blocking(hang(), played=played)) == []


async def test_a_consumer_plays_its_script() -> None:
    """It reads so many, stalls, and reads to EOS; EOS is met again when asked again."""
    session = StreamSession(scripted_iterator(emit("a"), emit("b"), emit("c")))
    consumer = ScriptedConsumer(read(2), stall(10), read(), read())
    await consumer.consume(session)
    assert (consumer.received, consumer.eos) == (["a", "b", "c"], 2)
    assert asyncio.get_running_loop().time() == 10
    await session.receipt()


async def test_a_consumer_reads_batches() -> None:
    """So many times, then to EOS."""
    session = StreamSession(ScriptedPull(emit(*"abcde")))
    consumer = ScriptedConsumer(read_ready(2, 1), read_ready(2))
    await consumer.consume(session)
    assert (consumer.received, consumer.eos) == (list("abcde"), 1)
    await session.receipt()


async def test_a_consumer_reads_a_whole_stream_in_batches() -> None:
    """So many batches, then to EOS, and EOS again."""
    session = StreamSession(ScriptedPull(emit(*"abcde")))
    consumer = ScriptedConsumer(read_batches(2, 1), read_batches(2), read_batches(2))
    await consumer.consume(session)
    assert (consumer.received, consumer.eos) == (list("abcde"), 2)
    await session.receipt()


async def test_a_consumer_parks_until_it_is_unparked() -> None:
    """Before or after it parks."""
    for before in (True, False):
        session = StreamSession(scripted_iterator(emit("a"), emit("b")))
        consumer = ScriptedConsumer(read(1), park(), read())
        if before:
            consumer.unpark()
        task = asyncio.create_task(consumer.consume(session))
        await settled()
        assert task.done() == before
        consumer.unpark()
        await task
        assert consumer.received == ["a", "b"]
        await session.receipt()


async def test_a_consumer_raises() -> None:
    """What it raises comes out."""
    session = StreamSession(scripted_iterator(emit("a"), hang()))
    with pytest.raises(KeyError):
        await ScriptedConsumer(read(1), raise_error(KeyError())).consume(session)
    assert (await session.receipt()).cause is Cause.CLIENT_DISCONNECT


async def test_leaving_is_the_last_thing_a_consumer_does() -> None:
    """What stands after `leave` is not done."""
    session = StreamSession(scripted_iterator(emit("a"), emit("b")))
    consumer = ScriptedConsumer(read(1), leave(), read())
    await consumer.consume(session)
    assert consumer.received == ["a"]
    await session.receipt()


async def test_a_second_reader_that_is_not_refused() -> None:
    """Where the first one is between two steps, the second one takes its place."""
    session = StreamSession(ScriptedProducer(emit("a"), hang()))
    consumer = ScriptedConsumer(second_reader())
    await consumer.consume(session)
    assert consumer.refused == []
    await session.aclose()


async def test_what_is_no_word_is_refused() -> None:
    """A script is made of the words of this package, and the text says where they come from."""
    with pytest.raises(UsageError, match=r"'emit' stands in a script; build its steps with emit"):
        await anext(scripted_iterator("emit"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"'read' stands in a script; build it with read"):
        await ScriptedConsumer("read").consume(StreamSession())  # type: ignore[arg-type]
