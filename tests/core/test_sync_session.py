"""The synchronous session: the same protocol, a blocking iterator, and endings from other threads."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from streamguard_core import (
    CUT,
    HOLD,
    PASS,
    Cause,
    CloseState,
    Deadlines,
    LedgerError,
    MemoryLedger,
    OpenRecord,
    SyncStreamSession,
    UsageError,
    drain,
    grace,
)


def words(count: int, closed: list[str] | None = None) -> Iterator[str]:
    """A generator that notes when its `finally` runs."""
    try:
        for number in range(count):
            yield f"w{number}"
    finally:
        if closed is not None:
            closed.append("closed")


class Blocked:
    """A producer that gives one word and then blocks until its transport is closed."""

    def __init__(self) -> None:
        self.transport = threading.Event()
        self.waiting = threading.Event()

    def __iter__(self) -> Iterator[str]:
        yield "one"
        self.waiting.set()
        self.transport.wait(20)
        raise OSError("the socket was closed")


def test_a_stream_is_read_to_its_end() -> None:
    """Every chunk in order, one receipt, COMPLETED."""
    ledger = MemoryLedger()
    with SyncStreamSession(words(3), ledger=ledger, model="demo") as session:
        assert list(session) == ["w0", "w1", "w2"]
        assert list(session) == []
    receipt = session.receipt()
    assert (receipt.cause, receipt.consumed, receipt.eos_delivered) == (Cause.COMPLETED, 3, True)
    assert ledger.receipts == [receipt]
    assert [record.model for record in ledger.opened] == ["demo"]


def test_an_empty_stream_ends() -> None:
    """Nothing is read, and the stream is complete (G6)."""
    with SyncStreamSession(iter(())) as session:
        assert session.read_ready() == []
    assert session.receipt().cause is Cause.COMPLETED


def test_leaving_the_loop_closes_the_iterator() -> None:
    """The reader's `break` is a disconnect; the iterator is closed in the same step (G10)."""
    closed: list[str] = []
    with SyncStreamSession(words(9, closed)) as session:
        for _ in session:
            break
    receipt = session.receipt()
    assert closed == ["closed"]
    assert (receipt.cause, receipt.close) == (Cause.CLIENT_DISCONNECT, CloseState.CONFIRMED)
    assert (receipt.committed, receipt.consumed) == (1, 0)


def test_a_drain_reads_on_and_refuses() -> None:
    """The reader is cut off, the provider is read to its end, every further chunk is late (G2)."""
    session = SyncStreamSession(words(9), on_disconnect=drain(20))
    chunks = iter(session)
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    receipt = session.receipt()
    assert (receipt.committed, receipt.late, receipt.policy) == (1, 8, "drain(20s)")


def test_a_drain_whose_producer_fails_is_over() -> None:
    """A failure after the cutoff is history and never the cause (G14)."""

    def failing() -> Iterator[str]:
        yield "one"
        raise ValueError("the provider's words")

    session = SyncStreamSession(failing(), on_disconnect=drain(20))
    chunks = iter(session)
    next(chunks)
    session.disconnected("gone")
    session.close()
    receipt = session.receipt()
    assert receipt.cause is Cause.CLIENT_DISCONNECT
    assert [signal.cause for signal in receipt.history][-1] is Cause.PRODUCER_ERROR
    assert "words" not in str(receipt)


def test_batches_are_consumed_when_the_next_is_asked_for() -> None:
    """`read_ready()` reports what was sent, at most `limit` chunks at a time."""
    session = SyncStreamSession(words(2))
    assert session.read_ready() == ["w0"]
    assert session.statistics().consumed == 0
    assert session.read_ready() == ["w1"]
    assert session.statistics().consumed == 1
    assert session.read_ready() == []
    with pytest.raises(UsageError, match="at least 1 chunk"):
        session.read_ready(0)


def test_gates_look_ahead_without_a_thread() -> None:
    """What is held is read on for, and released or cut."""

    class UpToThree:
        lookahead = 3

        def decide(self, text_so_far: str, chunk: Any) -> Any:
            return PASS if str(chunk) == "w2" else HOLD

    class NoFour:
        def decide(self, text_so_far: str, chunk: Any) -> Any:
            return CUT(Cause.GUARDRAIL, "no four") if str(chunk) == "w4" else PASS

    with SyncStreamSession(words(9), gates=[UpToThree()]) as session:
        assert session.read_ready() == ["w0", "w1", "w2"]
    with SyncStreamSession(words(9), gates=[NoFour()]) as session:
        assert list(session) == ["w0", "w1", "w2", "w3"]
    assert session.receipt().cause is Cause.GUARDRAIL


def test_another_thread_ends_a_blocked_stream() -> None:
    """The cause is fixed at once; closing the transport makes the blocked read fail (G7, G10)."""
    producer = Blocked()
    session = SyncStreamSession(producer)
    session.on_close(producer.transport.set)

    def stop() -> None:
        producer.waiting.wait(20)
        session.cancel("stop")

    other = threading.Thread(target=stop)
    other.start()
    assert list(session) == ["one"]
    other.join()
    receipt = session.receipt()
    assert (receipt.cause, receipt.close) == (Cause.USER_CANCEL, CloseState.CONFIRMED)


def test_a_deadline_ends_a_blocked_stream() -> None:
    """One timer thread, and the clock's cause."""
    producer = Blocked()
    session = SyncStreamSession(producer, deadlines=Deadlines(idle=0.01, total=60))
    session.on_close(producer.transport.set)
    assert list(session) == ["one"]
    assert session.receipt().cause is Cause.TIMEOUT_IDLE


def test_a_producer_that_fails_ends_the_stream() -> None:
    """The failure is on the receipt by its type, and not raised to the reader."""

    def failing() -> Iterator[str]:
        yield "one"
        raise ValueError("secret")

    with SyncStreamSession(failing()) as session:
        assert list(session) == ["one"]
    receipt = session.receipt()
    assert (receipt.cause, receipt.detail) == (Cause.PRODUCER_ERROR, "ValueError")


def test_an_interrupt_is_the_readers() -> None:
    """What is no Exception goes through, and the stream is receipted."""

    def interrupted() -> Iterator[str]:
        yield "one"
        raise KeyboardInterrupt

    session = SyncStreamSession(interrupted())
    with pytest.raises(KeyboardInterrupt):
        list(session)
    assert session.receipt().cause is Cause.PRODUCER_ERROR


def test_an_error_in_the_block_is_the_consumers() -> None:
    """G14: the code that reads failed, not the producer."""
    with pytest.raises(ZeroDivisionError), SyncStreamSession(words(3)) as session:  # noqa: PT012
        chunks = iter(session)  # held: a dropped iterator is a reader that has left
        next(chunks)
        raise ZeroDivisionError
    assert session.receipt().cause is Cause.CONSUMER_ERROR


def test_a_close_that_fails_is_history() -> None:
    """The stream is sealed all the same."""

    class Stubborn:
        def __iter__(self) -> Iterator[str]:
            return self

        def __next__(self) -> str:
            return "again"

        def close(self) -> None:
            raise OSError("no")

    with SyncStreamSession(Stubborn()) as session:
        chunks = iter(session)
        next(chunks)
        session.cancel()
    receipt = session.receipt()
    assert receipt.cause is Cause.USER_CANCEL
    assert Cause.PRODUCER_ERROR in [signal.cause for signal in receipt.history]


def test_a_stream_that_is_never_started_is_closed() -> None:
    """`close()` before the first read: no producer is called, and there is a receipt."""
    ledger = MemoryLedger()
    session = SyncStreamSession(words(3), ledger=ledger)
    session.close()
    assert session.receipt().produced == 0
    assert len(ledger.receipts) == 1


def test_a_factory_is_called_once_the_open_record_is_durable() -> None:
    """P23: the provider is not called before."""
    ledger, opened = MemoryLedger(), list[int]()

    def factory() -> Iterator[str]:
        opened.append(len(ledger.opened))
        return iter(["one"])

    session = SyncStreamSession(ledger=ledger)
    session.attach(factory)
    assert list(session) == ["one"]
    assert opened == [1]


def test_an_open_record_that_fails_stops_the_stream() -> None:
    """The provider is never called, and the error says so."""

    class Full(MemoryLedger):
        def append_open(self, record: OpenRecord) -> Future[None]:
            failed: Future[None] = Future()
            failed.set_exception(LedgerError("the disk is full"))
            return failed

    session = SyncStreamSession(words(3), ledger=Full())
    with pytest.raises(LedgerError, match="disk is full"):
        list(session)
    assert session.receipt().cause is Cause.INTERNAL_ERROR


def test_what_it_cannot_do_is_said() -> None:
    """Bad input names what was attempted and what to do."""
    with pytest.raises(UsageError, match="use a StreamSession"):
        SyncStreamSession(words(1), on_disconnect=grace(1))
    with pytest.raises(UsageError, match="before the stream was started"):
        SyncStreamSession(words(1)).receipt()

    class Pushing:
        async def run(self, *, out: Any, cancel_event: Any) -> None:
            """Never called."""

    session = SyncStreamSession(Pushing())
    with pytest.raises(UsageError, match="give a sync iterator"):
        list(session)
    reading = SyncStreamSession(words(3))
    chunks = iter(reading)
    next(chunks)
    with pytest.raises(UsageError, match="one reader at a time"):
        next(iter(reading))
    chunks.close()  # type: ignore[attr-defined]
    assert reading.receipt().cause is Cause.CLIENT_DISCONNECT


def test_a_dropped_session_is_receipted() -> None:
    """It warns, and nothing is lost (G11)."""
    ledger = MemoryLedger()
    session = SyncStreamSession(words(3), ledger=ledger)
    session.start()
    with pytest.warns(ResourceWarning, match="dropped without being closed"):  # noqa: PT031
        del session
        gc.collect()
    assert [receipt.cause for receipt in ledger.receipts] == [Cause.CONSUMER_ERROR]


def test_a_cut_between_two_chunks_is_seen_at_the_next() -> None:
    """A stream cut by another thread while the reader is busy hands over nothing more (G2)."""
    closed: list[str] = []
    session = SyncStreamSession(words(9, closed))
    chunks = iter(session)
    assert next(chunks) == "w0"
    other = threading.Thread(target=lambda: session.terminate(Cause.SHUTDOWN, "deploy"))
    other.start()
    other.join()
    assert closed == ["closed"]
    assert list(chunks) == []
    assert (session.receipt().cause, session.receipt().committed) == (Cause.SHUTDOWN, 1)
