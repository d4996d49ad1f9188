"""Tests of producers that block a thread, and of producers that emit from one."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any

from streamguard_core import (
    AnyChunk,
    Cause,
    CloseState,
    LedgerError,
    MemoryLedger,
    OpenRecord,
    StreamSession,
    drain,
)
from streamguard_core.testing import (
    Played,
    ScriptedConsumer,
    emit,
    hang,
    raise_in_finally,
    read,
    scripted_blocking,
    settled,
    wait,
)

ReadAll = Callable[[StreamSession], Coroutine[Any, Any, list[AnyChunk]]]


async def test_a_blocked_thread_is_freed_by_closing_its_transport() -> None:
    """The reader wakes at once; the thread ends when its transport is closed, and is confirmed (pitfall 11)."""
    played = Played()
    session = StreamSession(scripted_blocking(emit("a"), hang(), played=played))
    session.on_close(played.release)
    consumer = ScriptedConsumer(read())
    reading = asyncio.create_task(consumer.consume(session))
    await settled()
    session.cancel()
    await reading
    receipt = await session.receipt()
    assert consumer.received == ["a"]
    assert receipt.close is CloseState.CONFIRMED
    assert played.ended == 1


async def test_a_thread_that_cannot_be_freed_is_unconfirmed() -> None:
    """What it emits when it returns at last is late, or refused after the seal; nothing is committed (G2)."""
    played = Played()
    session = StreamSession(scripted_blocking(emit("a"), hang(), emit("b"), played=played))
    consumer = ScriptedConsumer(read())
    reading = asyncio.create_task(consumer.consume(session))
    await settled()
    session.cancel()
    receipt = await session.receipt()
    assert receipt.close is CloseState.UNCONFIRMED
    assert asyncio.get_running_loop().time() == 5
    played.release()
    await settled()
    await reading
    assert consumer.received == ["a"]
    assert played.ended == 1
    assert session.statistics().late == 1
    assert session.sealed is receipt


async def test_a_thread_produces_no_more_than_there_is_room_for() -> None:
    """Chunks in transit are bounded, too: the thread waits for a permit (G4)."""
    made: list[int] = []

    def count() -> Iterator[str]:
        for number in range(1000):
            made.append(number)
            yield "x"

    session = StreamSession(count(), speculative_buffer_limit=2, max_inflight_commits=3)
    session.start()
    await settled()
    assert session.statistics().produced == 5
    assert len(made) <= 5 + 3
    read_chunks = [chunk async for chunk in session]
    assert len(read_chunks) == 1000
    assert (await session.receipt()).cause is Cause.COMPLETED


async def test_the_thread_works_in_the_context_of_the_session() -> None:
    """Context variables of whoever started the session are seen in the producer's thread."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    name.set("caller")

    def words() -> Iterator[str]:
        yield name.get()

    session = StreamSession(words())
    assert [chunk async for chunk in session] == ["caller"]
    await session.receipt()


async def test_the_iterator_is_closed_in_its_own_thread() -> None:
    """`close()` runs where the iterator ran, and an error in it is the producer's."""
    threads: list[int] = []

    class Words:
        def __init__(self, error: Exception | None) -> None:
            self._error = error

        def __iter__(self) -> Words:
            return self

        def __next__(self) -> str:
            threads.append(threading.get_ident())
            raise StopIteration

        def close(self) -> None:
            threads.append(threading.get_ident())
            if self._error:
                raise self._error

    for error, cause in ((None, Cause.COMPLETED), (OSError(), Cause.PRODUCER_ERROR)):
        threads.clear()
        session = StreamSession(Words(error))
        assert [chunk async for chunk in session] == []
        assert (await session.receipt()).cause is cause
        assert len(set(threads)) == 1
        assert threads[0] != threading.get_ident()


async def test_an_iterator_that_fails_keeps_its_first_error() -> None:
    """An error while closing does not hide the one before it."""
    session = StreamSession(scripted_blocking(raise_in_finally(OSError()), emit("a")))
    assert [chunk async for chunk in session] == ["a"]
    assert (await session.receipt()).detail == "OSError"

    class Broken:
        def __iter__(self) -> Any:
            raise ConnectionError

    session = StreamSession(Broken())
    assert [chunk async for chunk in session] == []
    assert (await session.receipt()).detail == "ConnectionError"

    class Doubly:
        def __iter__(self) -> Doubly:
            return self

        def __next__(self) -> str:
            raise ConnectionError

        def close(self) -> None:
            raise OSError

    session = StreamSession(Doubly())
    assert [chunk async for chunk in session] == []
    assert (await session.receipt()).detail == "ConnectionError"


async def test_a_cut_while_the_thread_waits_for_room() -> None:
    """What waited for room and what was in transit is late; the thread ends."""
    played = Played()
    script = [emit(*"abcdefgh"), hang()]
    session = StreamSession(
        scripted_blocking(*script, played=played),
        speculative_buffer_limit=2,
        max_inflight_commits=2,
    )
    session.start()
    await settled()
    assert session.statistics().produced == 4
    session.cancel()
    receipt = await session.receipt()
    assert receipt.close is CloseState.CONFIRMED
    assert receipt.produced == 4
    assert receipt.late >= 1
    assert played.ended == 1


async def test_a_thread_that_ends_with_chunks_in_transit() -> None:
    """The end comes after the last chunk, however slowly the reader takes them."""
    session = StreamSession(
        scripted_blocking(emit(*"abcdef")), speculative_buffer_limit=1, max_inflight_commits=1
    )
    read_chunks = []
    async for chunk in session:
        read_chunks.append(chunk)
        await asyncio.sleep(1)
    assert read_chunks == list("abcdef")
    receipt = await session.receipt()
    assert (receipt.cause, receipt.consumed) == (Cause.COMPLETED, 6)


async def test_a_thread_under_drain() -> None:
    """A thread is read on and discarded like any producer."""
    session = StreamSession(
        scripted_blocking(emit("a"), wait(2), emit("b"), wait(2), emit("c")),
        on_disconnect=drain(60),
    )
    async for _ in session:
        break
    receipt = await session.receipt()
    assert (receipt.cause, receipt.produced, receipt.late) == (Cause.CLIENT_DISCONNECT, 1, 2)
    assert receipt.close is CloseState.CONFIRMED


class SlowLedger(MemoryLedger):
    """A ledger whose OPEN record becomes durable when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.opening: Future[None] = Future()

    def append_open(self, record: OpenRecord) -> Future[None]:
        """Keep it, and wait."""
        super().append_open(record)
        return self.opening


async def test_a_thread_begins_once_the_open_record_is_durable(read_all: ReadAll) -> None:
    """Not before; and not at all when that fails or the stream is cut off meanwhile."""
    for outcome in ("durable", "failed", "cut"):
        ledger, played = SlowLedger(), Played()
        session = StreamSession(scripted_blocking(emit("a"), played=played), ledger=ledger)
        reading = asyncio.create_task(read_all(session))
        await settled()
        assert played.begun == 0
        if outcome == "durable":
            ledger.opening.set_result(None)
        elif outcome == "failed":
            ledger.opening.set_exception(LedgerError("the disk is full"))
        else:
            session.cancel()
        chunks = await reading
        receipt = await session.receipt()
        expected = {
            "durable": (["a"], Cause.COMPLETED, 1),
            "failed": ([], Cause.INTERNAL_ERROR, 0),
            "cut": ([], Cause.USER_CANCEL, 0),
        }
        assert (chunks, receipt.cause, played.begun) == expected[outcome]


async def test_an_iterator_that_was_never_read_is_closed() -> None:
    """A provider's stream may be open before it is given; cut off before its thread began, it is closed."""

    class Opened:
        def __init__(self, error: Exception | None = None) -> None:
            self.closed = 0
            self._error = error

        def __iter__(self) -> Iterator[str]:
            return iter(["a"])

        def close(self) -> None:
            self.closed += 1
            if self._error:
                raise self._error

    for opened in (Opened(), Opened(OSError())):
        session = StreamSession(opened)
        session.start()
        session.cancel()
        receipt = await session.receipt()
        assert opened.closed == 1
        assert receipt.close is CloseState.CONFIRMED
    opened = Opened()
    session = StreamSession(opened)
    await session.aclose()
    assert opened.closed == 1
    opened = Opened()
    session = StreamSession()
    session.start()
    session.cancel()
    session.attach(opened)
    await settled()
    assert opened.closed == 1
    await session.aclose()
