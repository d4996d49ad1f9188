"""Tests of who wakes when: the cutoff, freed room and a disconnect act in the same turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from streamguard_core import AnyChunk, Cause, CloseState, Deadlines, MemoryLedger, StreamSession
from streamguard_core.limits import DEFAULT_DEADLINES
from streamguard_core.testing import (
    JumpingLoop,
    Played,
    ScriptedProducer,
    emit,
    hang,
    scripted_iterator,
    settled,
    wait,
)

Build = Callable[..., Any]
ReadAll = Callable[[StreamSession], Coroutine[Any, Any, list[AnyChunk]]]


def turns() -> int:
    """How often the running loop has turned."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    return loop.turns


async def test_a_parked_reader_wakes_in_the_step_of_the_cutoff(
    build: Build, read_all: ReadAll
) -> None:
    """What the cutoff schedules runs in the very next turn, and the reader is among it (G7, pitfall 39)."""
    built = build(emit("a"), hang())
    woken: list[int] = []

    async def read() -> None:
        await read_all(built.session)
        woken.append(turns())

    reader = asyncio.create_task(read())
    await settled()
    cut = turns()
    built.session.cancel()
    await reader
    assert woken == [cut + 1]
    await built.session.receipt()


@pytest.mark.parametrize("seconds", [3, 0.001])
async def test_a_deadline_wakes_the_reader_in_its_step(seconds: float, read_all: ReadAll) -> None:
    """A timeout is no different from a cancel: the reader runs in the next turn, at that instant."""
    for producer in (scripted_iterator(emit("a"), hang()), ScriptedProducer(emit("a"), hang())):
        session = StreamSession(producer, deadlines=Deadlines(total=seconds))
        began = asyncio.get_running_loop().time()
        assert await read_all(session) == ["a"]
        assert asyncio.get_running_loop().time() == pytest.approx(began + seconds)
        assert (await session.receipt()).cause is Cause.TIMEOUT_TOTAL


async def test_a_reader_parked_before_the_first_chunk_wakes(
    build: Build, read_all: ReadAll
) -> None:
    """During prefill, with nothing produced yet, a cancel frees the reader at once (regression 3)."""
    built = build(hang())
    reader = asyncio.create_task(read_all(built.session))
    await settled()
    built.session.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert reader.done()
    assert (await built.session.receipt()).cause is Cause.USER_CANCEL


class Unready:
    """A ledger whose OPEN record is never durable."""

    def __init__(self) -> None:
        self._ledger = MemoryLedger()

    def append_open(self, record: Any) -> Any:
        """Begin, and never end."""
        from concurrent.futures import Future

        return Future[None]()

    def append_close(self, receipt: Any) -> Any:
        """Keep the receipt."""
        return self._ledger.append_close(receipt)


async def test_a_reader_that_waits_for_the_ledger_wakes(build: Build, read_all: ReadAll) -> None:
    """While the OPEN record is being written nothing has been called, and a cancel frees the reader."""
    built = build(emit("a"), ledger=Unready())
    reader = asyncio.create_task(read_all(built.session))
    await settled()
    built.session.cancel()
    assert await reader == []
    receipt = await built.session.receipt()
    assert receipt.cause is Cause.USER_CANCEL
    assert built.played.begun == 0


async def test_freed_room_wakes_the_producer_at_once() -> None:
    """The chunk that waited is taken in the turn after room was made, not at the next event (G5)."""
    producer = ScriptedProducer(emit("a", "b", "c", "d"), hang())
    session = StreamSession(producer, speculative_buffer_limit=1, max_inflight_commits=1)
    session.start()
    await settled()
    # Two fit; the third waits.
    assert (session.statistics().produced, producer.played.accepted) == (2, 2)
    reader = aiter(session)
    assert await anext(reader) == "a"
    before = turns()
    assert await anext(reader) == "b"  # says that "a" was taken
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert session.statistics().produced == 3
    assert turns() - before <= 2
    await session.aclose()


async def test_freed_room_wakes_the_producer_of_batches_at_once() -> None:
    """The same with `read_ready`: acknowledging a batch makes room for as many."""
    producer = ScriptedProducer(emit(*"abcdefgh"), hang())
    session = StreamSession(producer, speculative_buffer_limit=2, max_inflight_commits=2)
    read: list[AnyChunk] = []
    while len(read) < 8:
        read += await session.read_ready()
    assert "".join(map(str, read)) == "abcdefgh"
    assert asyncio.get_running_loop().time() == 0
    await session.aclose()


async def test_twenty_thousand_tokens_without_a_reader(build_pushed: Build) -> None:
    """They leave at most both limits of chunks buffered, and the producer waits (G4, regression 4)."""
    built = build_pushed(emit(*("x" for _ in range(20_000))))
    built.session.start()
    await settled()
    statistics = built.session.statistics()
    assert statistics.produced <= 8 + 16
    assert statistics.committed <= 16
    assert (statistics.cause, statistics.consumed) == (None, 0)
    await built.session.aclose()
    if built.session.cause is None:
        built.session.cancel()
    await built.session.receipt()


async def test_twenty_thousand_tokens_against_a_reader_that_stops() -> None:
    """A pulled producer is not asked for more than the reader asks for."""
    played = Played()
    session = StreamSession(scripted_iterator(*(emit("x") for _ in range(20_000)), played=played))
    iterator = aiter(session)
    for _ in range(10):
        await anext(iterator)
    await settled()
    assert session.statistics().produced == 10
    await session.aclose()


async def test_a_disconnect_closes_the_pulled_iterator_within_one_turn() -> None:
    """From `disconnected()` to the clean-up of the producer's iterator: the next turn, wherever it waits."""
    closed: list[int] = []

    async def words() -> AsyncIterator[str]:
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            closed.append(turns())

    # The reader waits inside the iterator.
    session = StreamSession(words())
    iterator = aiter(session)
    assert await anext(iterator) == "a"
    waiting = asyncio.create_task(anext(iterator, None))
    await settled()
    left = turns()
    session.disconnected("gone")
    assert await waiting is None
    assert closed == [left + 1]
    await session.receipt()
    # The reader holds a chunk: the iterator waits at its yield.
    closed.clear()
    session = StreamSession(words())
    iterator = aiter(session)
    assert await anext(iterator) == "a"
    left = turns()
    session.disconnected("gone")
    await session.receipt()
    assert closed == [left + 1]


async def test_a_disconnect_closes_a_pushed_producer_within_one_turn() -> None:
    """The producer's task is interrupted in the turn after the disconnect."""
    closed: list[int] = []

    class Words:
        async def run(self, *, out: Any, cancel_event: Any) -> None:
            try:
                await out("a")
                await cancel_event.wait()
            finally:
                assert cancel_event.is_set()
                assert await cancel_event.wait()
                closed.append(turns())

    session = StreamSession(Words())
    session.start()
    await settled()
    left = turns()
    session.disconnected("gone")
    receipt = await session.receipt()
    assert closed == [left + 1]
    assert receipt.close is CloseState.CONFIRMED


async def test_transports_are_closed_before_the_producer_is_told() -> None:
    """At the cutoff the callbacks run first, in the same step (G10)."""
    order: list[str] = []

    async def words() -> AsyncIterator[str]:
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            order.append("producer")

    session = StreamSession(words())
    session.on_close(lambda: order.append("first transport"))
    undo = session.on_close(lambda: order.append("forgotten"))
    session.on_close(lambda: order.append("second transport"))
    undo()
    undo()
    reading = asyncio.create_task(ReadToEnd(session).read())
    await settled()
    session.cancel()
    assert order == ["first transport", "second transport"]
    await reading
    assert order == ["first transport", "second transport", "producer"]
    receipt = await session.receipt()
    assert receipt.instants.close_called_ns is not None
    assert receipt.instants.close_confirmed_ns is not None


class ReadToEnd:
    """Reads a session to EOS."""

    def __init__(self, session: StreamSession) -> None:
        self._session = session

    async def read(self) -> None:
        """Read."""
        async for _ in self._session:
            pass


async def test_a_transport_that_joins_after_the_cutoff_is_closed_at_once(build: Build) -> None:
    """There is no instant after the cutoff at which a provider's connection could stay open (pitfall 3)."""
    for end in (lambda session: session.cancel(), lambda session: None):
        built = build(emit("a"))
        end(built.session)
        await ReadToEnd(built.session).read()
        await built.session.receipt()
        closed: list[int] = []
        built.session.on_close(lambda closed=closed: closed.append(1))()
        assert closed == [1]


async def test_a_transport_that_cannot_be_closed_keeps_nobody_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error in one callback is logged by its type; the others run and the stream is sealed (pitfall 12)."""
    session = StreamSession(scripted_iterator(hang()))
    closed: list[int] = []

    def broken() -> None:
        raise OSError("secret")

    session.on_close(broken)
    session.on_close(lambda: closed.append(1))
    session.start()
    session.cancel()
    assert (await session.receipt()).cause is Cause.USER_CANCEL
    assert closed == [1]
    assert "OSError" in caplog.text
    assert "secret" not in caplog.text


def timed_calls(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays of the timers that the running loop is asked for from now on."""
    loop, delays = asyncio.get_running_loop(), []
    right = loop.call_later

    def call_later(delay: float, *arguments: Any, **keywords: Any) -> asyncio.TimerHandle:
        delays.append(delay)
        return right(delay, *arguments, **keywords)

    monkeypatch.setattr(loop, "call_later", call_later)
    return delays


async def test_a_parked_reader_takes_eos_without_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Completion with a reader that waits for nothing but EOS leaves no wait to be bounded."""
    delays = timed_calls(monkeypatch)
    session = StreamSession(ScriptedProducer(emit("a"), wait(1)))
    assert [chunk async for chunk in session] == ["a"]
    assert (await session.receipt()).eos_delivered
    assert DEFAULT_DEADLINES.finalisation not in delays


async def test_a_reader_that_holds_the_last_chunk_is_given_a_bounded_time() -> None:
    """A reader that was woken once and now holds a chunk may let EOS wait for ever: that is bounded."""
    session = StreamSession(ScriptedProducer(wait(1), emit("a"), wait(1)))
    reader = aiter(session)
    assert await anext(reader) == "a"
    began = asyncio.get_running_loop().time()
    receipt = await session.receipt()
    assert not receipt.eos_delivered
    passed = asyncio.get_running_loop().time() - began
    assert passed == pytest.approx(1 + DEFAULT_DEADLINES.finalisation)
    await reader.aclose()
