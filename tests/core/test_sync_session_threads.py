"""The synchronous session when other threads, timers and interrupts get between reader and producer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Unpack

import pytest

from streamguard_core import (
    Cause,
    CloseState,
    Deadlines,
    DisconnectPolicy,
    MemoryLedger,
    OpenRecord,
    SessionOptions,
    SyncStreamSession,
    UsageError,
    cancel,
    drain,
)


def elsewhere(work: Callable[[], object]) -> None:
    """Do `work` in another thread, to its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


class Scene:
    """A generator that has something happen while the reader's thread is inside it."""

    def __init__(self, **options: Unpack[SessionOptions]) -> None:
        self.closed: list[str] = []
        self.happens: Callable[[], object] = lambda: None
        self.session = SyncStreamSession(self.chunks(), **options)

    def chunks(self) -> Iterator[str]:
        """Two chunks, between which it happens, and a third."""
        try:
            yield "one"
            self.happens()
            yield "two"
            yield "three"
        finally:
            self.closed.append(threading.current_thread().name)


def test_a_cut_inside_the_iterator_is_seen_when_it_returns() -> None:
    """What it returns is late; the reader's thread, which alone may, closes it, and the end is confirmed (G2, G10)."""
    scene = Scene()
    scene.happens = lambda: elsewhere(scene.session.cancel)
    assert list(scene.session) == ["one"]
    receipt = scene.session.receipt()
    assert (receipt.cause, receipt.close) == (Cause.USER_CANCEL, CloseState.CONFIRMED)
    assert (receipt.produced, receipt.late) == (1, 1)
    assert scene.closed == [threading.current_thread().name]


@pytest.mark.parametrize("how", ["close", "disconnected"])
def test_a_drain_goes_on_when_the_iterator_returns(how: str) -> None:
    """Nobody else may run an iterator that is running: who is inside reads on to the end (G10, G14)."""
    scene = Scene(on_disconnect=drain(60))
    scene.happens = lambda: elsewhere(getattr(scene.session, how))
    assert list(scene.session) == ["one"]
    receipt = scene.session.sealed
    assert receipt is not None
    assert [signal.cause for signal in receipt.history] == [Cause.CLIENT_DISCONNECT]
    assert (receipt.committed, receipt.late) == (1, 2)
    assert receipt.close is CloseState.CONFIRMED


def test_who_waits_for_the_receipt_reads_the_drain_on() -> None:
    """The wait for the receipt does not last as long as the drain may."""
    scene = Scene(on_disconnect=drain(60))
    chunks = iter(scene.session)
    assert next(chunks) == "one"
    scene.session.disconnected("gone")
    elsewhere(scene.session.receipt)
    receipt = scene.session.sealed
    assert receipt is not None
    assert (receipt.cause, receipt.late) == (Cause.CLIENT_DISCONNECT, 2)


def test_an_interrupt_during_a_drain_is_the_readers() -> None:
    """What is no Exception goes through, and the stream is receipted all the same (G11)."""
    ledger = MemoryLedger()
    scene = Scene(on_disconnect=drain(60), ledger=ledger)

    def interrupt() -> None:
        raise KeyboardInterrupt

    scene.happens = interrupt
    chunks = iter(scene.session)
    assert next(chunks) == "one"
    with pytest.raises(KeyboardInterrupt):
        chunks.close()  # type: ignore[attr-defined]
    assert [receipt.cause for receipt in ledger.receipts] == [Cause.CLIENT_DISCONNECT]


def test_a_reader_that_never_comes_back_is_not_waited_for() -> None:
    """The finalisation deadline seals the stream, though the reader holds a committed chunk (G6)."""
    session = SyncStreamSession(iter(["one"]), deadlines=Deadlines(finalisation=0.01))
    chunks = iter(session)
    assert next(chunks) == "one"
    session.cancel("enough")
    receipt = session.receipt()
    assert (receipt.cause, receipt.consumed, receipt.eos_delivered) == (Cause.USER_CANCEL, 0, False)
    assert list(chunks) == []


def test_a_stream_cut_before_it_began_is_empty() -> None:
    """Nothing is called, the reader gets EOS, and the receipt says why."""
    scene = Scene()
    scene.session.cancel("changed my mind")
    assert list(scene.session) == []
    receipt = scene.session.receipt()
    assert (receipt.cause, receipt.produced) == (Cause.USER_CANCEL, 0)


def test_an_empty_chunk_is_a_chunk_and_no_token() -> None:
    """It is counted and delivered; the first token is still to come, and its deadline runs (G14)."""
    waiting = threading.Event()

    def silent() -> Iterator[str]:
        yield ""
        waiting.wait(20)
        raise OSError("closed")

    session = SyncStreamSession(silent(), deadlines=Deadlines(first_token=0.01))
    session.on_close(waiting.set)
    assert list(session) == [""]
    receipt = session.receipt()
    assert (receipt.cause, receipt.produced) == (Cause.TIMEOUT_FIRST_TOKEN, 1)


class Connection:
    """A provider's open stream, as an SDK gives it: iterable, and to be closed."""

    def __init__(self) -> None:
        self.closed = 0

    def __iter__(self) -> Iterator[str]:
        yield "never"

    def close(self) -> None:
        """Note it."""
        self.closed += 1


@pytest.mark.parametrize("policy", [cancel(), drain(60)], ids=str)
def test_a_producer_that_was_never_read_is_closed(policy: DisconnectPolicy) -> None:
    """What was opened before it was given costs money until it is closed; there is nothing to drain (G10)."""
    producer = Connection()
    with SyncStreamSession(producer, on_disconnect=policy) as session:
        pass
    receipt = session.sealed
    assert receipt is not None
    assert (receipt.cause, receipt.close) == (Cause.CLIENT_DISCONNECT, CloseState.CONFIRMED)
    assert producer.closed == 1


class Slow(MemoryLedger):
    """A ledger that makes the OPEN record durable when another thread has ended the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], object] = lambda: None

    def append_open(self, record: OpenRecord) -> Future[None]:
        """Begin."""
        durable: Future[None] = Future()

        def end() -> None:
            self.meanwhile()
            durable.set_result(None)

        super().append_open(record)
        threading.Thread(target=end).start()
        return durable


def test_a_cut_while_the_open_record_is_written_calls_nobody() -> None:
    """The provider is not called for a stream that is over (G2)."""
    ledger, called = Slow(), list[str]()

    def factory() -> Iterator[str]:
        called.append("factory")
        return iter(["one"])

    session = SyncStreamSession(factory, ledger=ledger)
    ledger.meanwhile = session.cancel
    assert list(session) == []
    assert called == []
    assert session.receipt().cause is Cause.USER_CANCEL


def test_a_cut_while_the_factory_connects_closes_what_it_returns() -> None:
    """Nobody waits for a factory that blocks; what it comes back with is closed unread (G10)."""
    producer = Connection()

    def factory() -> Iterator[str]:
        elsewhere(session.cancel)
        return Iterated(producer)

    session = SyncStreamSession(factory)
    assert list(session) == []
    assert producer.closed == 1
    assert session.receipt().close is CloseState.CONFIRMED


class Iterated:
    """An iterator of its own, over an open stream."""

    def __init__(self, connection: Connection) -> None:
        self.close = connection.close

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return "never"


@pytest.mark.parametrize("closes", [True, False])
def test_a_factory_that_fails_is_the_producers_failure(closes: bool) -> None:
    """No connection: the reader gets EOS, and neither it nor its `with` is to blame (G14)."""

    def factory() -> Iterator[str]:
        raise ConnectionRefusedError("secret")

    session = SyncStreamSession(factory)
    if closes:
        with session:
            assert list(session) == []
    else:
        assert session.read_ready() == []
    receipt = session.receipt()
    assert (receipt.cause, receipt.detail) == (Cause.PRODUCER_ERROR, "ConnectionRefusedError")


def test_a_factory_of_something_else_is_refused() -> None:
    """What it returns is judged as what is given is."""

    def factory() -> int:
        return 7

    session = SyncStreamSession(factory)
    with pytest.raises(UsageError, match="producer of type int was given"):
        list(session)
    assert session.receipt().cause is Cause.INTERNAL_ERROR
