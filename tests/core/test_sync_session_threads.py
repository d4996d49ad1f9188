"""The synchronous session when other threads, timers and interrupts get between reader and producer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from streamguard_core import (
    Cause,
    CloseState,
    Deadlines,
    MemoryLedger,
    SyncStreamSession,
    drain,
)


def elsewhere(work: Callable[[], object]) -> None:
    """Do `work` in another thread, to its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


class Scene:
    """A generator that has something happen while the reader's thread is inside it."""

    def __init__(self, **keywords: object) -> None:
        self.closed: list[str] = []
        self.happens: Callable[[], object] = lambda: None
        self.session = SyncStreamSession(self.chunks(), **keywords)

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
