"""Tests of streams that nobody ends: dropped sessions, collected generators, closed loops (G11)."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streamguard_core import (
    Cause,
    CloseState,
    CutOff,
    CutOffError,
    Deadlines,
    MemoryLedger,
    Notice,
    StreamSession,
    UsageError,
    drain,
    grace,
)
from streamguard_core.testing import (
    Played,
    ScriptedProducer,
    emit,
    hang,
    jumping_loop,
    scripted_iterator,
    settled,
)

Build = Callable[..., Any]


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Run without the cyclic collector: only reference counts end anything."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collector")
async def test_a_dropped_session_is_receipted_at_once(build: Build) -> None:
    """Without a reader and without a reference it warns, ends, and leaves one receipt, without the collector."""
    ledger = MemoryLedger()
    built = build(emit("a"), hang(), ledger=ledger)
    played, name = built.played, built.session.stream_id
    built.session.start()
    await settled()
    with pytest.warns(
        ResourceWarning, match=rf"StreamSession {name} .* was dropped without being closed"
    ):
        del built
    assert [receipt.cause for receipt in ledger.receipts] == [Cause.CONSUMER_ERROR]
    assert "dropped" in ledger.receipts[0].detail
    await settled()
    assert played.begun == played.ended
    assert len(ledger.receipts) == 1


@pytest.mark.usefixtures("without_collector")
async def test_a_dropped_reader_and_session_are_receipted(build: Build) -> None:
    """A reader that is dropped in mid-stream together with its session is a disconnect like any other."""
    ledger = MemoryLedger()

    async def view(session: StreamSession) -> None:
        async for _ in session:
            break

    built = build(emit("a"), emit("b"), hang(), ledger=ledger)
    session, played = weakref.ref(built.session), built.played
    await view(built.session)
    del built
    await settled()
    if session() is not None:
        await asyncio.sleep(30)  # under grace, the stream lives on until that is over
    assert [receipt.cause for receipt in ledger.receipts] == [Cause.CLIENT_DISCONNECT]
    assert played.ended == 1
    await settled()
    assert session() is None


async def test_a_dropped_session_in_a_cycle_is_collected(build: Build) -> None:
    """A session in a reference cycle is found by the collector, with the same outcome."""
    ledger = MemoryLedger()
    built = build(emit("a"), hang(), ledger=ledger)
    cycle: list[Any] = [built.session]
    cycle.append(cycle)
    built.session.start()
    await settled()
    del built
    del cycle
    with pytest.warns(ResourceWarning, match="dropped without being closed"):
        gc.collect()
    assert len(ledger.receipts) == 1


async def test_a_session_dropped_in_another_thread(build: Build) -> None:
    """The collector runs in any thread; the loop's things are touched on the loop's thread."""
    ledger = MemoryLedger()
    built = build(emit("a"), hang(), ledger=ledger)
    played = built.played
    built.session.start()
    await settled()
    holder = [built.session]
    del built
    here, sealed_in = threading.get_ident(), list[int]()
    append = ledger.append_close

    def append_close(receipt: Any) -> Any:
        sealed_in.append(threading.get_ident())
        return append(receipt)

    ledger.append_close = append_close  # type: ignore[method-assign]
    with pytest.warns(ResourceWarning, match="dropped"):
        await asyncio.to_thread(holder.clear)
    await settled()
    assert sealed_in == [here]
    assert [receipt.cause for receipt in ledger.receipts] == [Cause.CONSUMER_ERROR]
    assert played.begun == played.ended


class Holding:
    """An observer that holds something."""

    def __init__(self, held: object) -> None:
        self.held = held

    def __call__(self, notice: Notice) -> None:
        """Take no notice."""


async def test_a_producer_that_cuts_itself_off_after_its_session_was_collected() -> None:
    """The collector is at work in another thread: what was decided meanwhile is carried out when it is done."""
    ledger, holder, refused = MemoryLedger(), list[StreamSession](), list[str]()

    def collect() -> None:
        holder.clear()
        gc.collect()

    class Careless:
        async def run(self, *, out: Any, cancel_event: Any) -> None:
            for word in "abc":
                out(word)  # There is no room for the third, and it is not awaited.
            thread = threading.Thread(target=collect)
            thread.start()
            thread.join()
            try:
                out("d")
            except CutOffError as error:
                refused.append(str(error))

    cycle: list[Any] = []
    session = StreamSession(
        Careless(),
        speculative_buffer_limit=1,
        max_inflight_commits=1,
        ledger=ledger,
        # Holds what holds the session: only the collector finds it.
        observers=[Holding(cycle)],
    )
    cycle.append(session)
    holder.append(session)
    session.start()
    del session, cycle
    with pytest.warns(ResourceWarning, match="dropped without being closed"):
        await settled()
    (receipt,) = ledger.receipts
    assert (receipt.cause, receipt.late) == (Cause.PRODUCER_OVERRUN, 2)
    assert len(refused) == 1


async def test_a_session_that_was_never_started_is_dropped_silently(build: Build) -> None:
    """Nothing was opened, nothing was called, nothing is written."""
    ledger = MemoryLedger()
    build(emit("a"), ledger=ledger)
    gc.collect()
    assert ledger.opened == []
    assert ledger.receipts == []


async def test_a_session_that_could_not_be_built_is_dropped_silently() -> None:
    """An object whose constructor failed has nothing to warn of."""
    with pytest.raises(UsageError):
        StreamSession(5)
    gc.collect()


async def test_bounded_waits_hold_the_session() -> None:
    """Under grace the stream goes on though nobody holds the session: the timer does."""
    ledger = MemoryLedger()
    session = StreamSession(
        ScriptedProducer(emit("a"), hang()), on_disconnect=grace(30), ledger=ledger
    )
    session.start()
    await settled()
    session.disconnected("left")
    del session
    gc.collect()
    await asyncio.sleep(29)
    assert ledger.receipts == []
    await asyncio.sleep(2)
    (receipt,) = ledger.receipts
    assert (receipt.cause, receipt.policy) == (Cause.CLIENT_DISCONNECT, "grace(30s)")


async def test_a_drain_holds_the_session() -> None:
    """Nor is a drain cut short because the session is dropped."""
    ledger = MemoryLedger()
    session = StreamSession(
        ScriptedProducer(emit("a"), hang()), on_disconnect=drain(30), ledger=ledger
    )
    session.start()
    await settled()
    session.disconnected("left")
    del session
    gc.collect()
    await asyncio.sleep(31)
    assert [receipt.cause for receipt in ledger.receipts] == [Cause.CLIENT_DISCONNECT]


async def test_deadlines_do_not_hold_the_session() -> None:
    """A timer of a live stream must not keep a session that was dropped."""
    ledger = MemoryLedger()
    session = StreamSession(scripted_iterator(hang()), deadlines=Deadlines(total=60), ledger=ledger)
    session.start()
    with pytest.warns(ResourceWarning, match="dropped"):
        del session
    assert len(ledger.receipts) == 1
    await asyncio.sleep(100)
    assert len(ledger.receipts) == 1


async def test_the_timer_of_a_dropped_session_does_nothing() -> None:
    """A timer that fires after its session is gone finds nobody."""
    session = StreamSession(scripted_iterator(hang()), deadlines=Deadlines(total=60))
    session.start()
    timer = session._timer
    assert timer is not None
    with pytest.warns(ResourceWarning, match="dropped"):
        del session
    timer._run()


async def test_a_dropped_drain_is_given_up(build_pushed: Build) -> None:
    """Dropped while it reads on for the usage after the seal of nothing: the receipt is unconfirmed."""
    ledger = MemoryLedger()
    built = build_pushed(emit("a"), hang(), ledger=ledger)
    built.session.start()
    await settled()
    with pytest.warns(ResourceWarning, match="dropped"):
        del built
    (receipt,) = ledger.receipts
    assert receipt.close is CloseState.UNCONFIRMED
    await settled()


def run_and_close(main: Callable[[], Any], *, keep_tasks: bool = False) -> None:
    """Run `main` on a loop of its own and close that with everything still in flight."""
    loop = jumping_loop()
    loop.run_until_complete(main())
    if not keep_tasks:
        for task in asyncio.all_tasks(loop):
            # What a crash does: nobody tells the tasks.
            task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()


@pytest.mark.parametrize("how", ["cancel", "disconnected", "other thread", "drop"])
@pytest.mark.parametrize("own_task", [False, True])
@pytest.mark.filterwarnings("ignore:.*dropped without being closed:ResourceWarning")
def test_the_loop_was_closed_in_mid_stream(how: str, own_task: bool) -> None:
    """Nothing can run any more: the receipt is written all the same, and says unconfirmed (pitfall 15)."""
    ledger, holder, seen = MemoryLedger(), list[Any](), list[Notice]()

    async def main() -> None:
        session = StreamSession(
            scripted_iterator(emit("a"), hang()),
            own_task=own_task,
            ledger=ledger,
            observers=[seen.append],
        )
        iterator = aiter(session)
        assert await anext(iterator) == "a"
        holder.extend([session, iterator])

    closed: list[int] = []
    run_and_close(main)
    session: StreamSession = holder[0]
    session.on_close(lambda: closed.append(1))
    if how == "cancel":
        session.cancel("too late for the loop")
    elif how == "disconnected":
        session.disconnected()
    elif how == "other thread":
        thread = threading.Thread(target=session.cancel)
        thread.start()
        thread.join()
    del session
    holder.clear()
    gc.collect()
    (receipt,) = ledger.receipts
    expected = {"disconnected": Cause.CLIENT_DISCONNECT, "drop": Cause.CONSUMER_ERROR}
    assert receipt.cause is expected.get(how, Cause.USER_CANCEL)
    assert receipt.close is CloseState.UNCONFIRMED
    assert closed == [1]
    assert [type(notice) for notice in seen].count(CutOff) == 1


def test_somebody_waited_for_the_receipt_when_the_loop_was_closed() -> None:
    """A waiter of a closed loop is not woken; there is nobody to run it."""
    holder: list[Any] = []

    async def main() -> None:
        session = StreamSession(scripted_iterator(hang()))
        session.start()
        holder.extend([session, asyncio.ensure_future(session.receipt())])
        await settled()

    run_and_close(main)
    holder[0].cancel()
    assert holder[0].sealed.cause is Cause.USER_CANCEL


def test_asyncio_run_ends_in_mid_stream() -> None:
    """`asyncio.run` cancels what is left: a pushed stream of which nobody waits is SHUTDOWN, and receipted."""
    ledger, holder = MemoryLedger(), list[StreamSession]()

    async def main() -> None:
        session = StreamSession(ScriptedProducer(emit("a"), hang()), ledger=ledger)
        session.start()
        holder.append(session)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert [receipt.cause for receipt in ledger.receipts] == [Cause.SHUTDOWN]


def test_asyncio_run_ends_with_a_reader_in_mid_stream() -> None:
    """The reader's generator is closed by the loop's shutdown: a disconnect."""
    ledger, holder, played = MemoryLedger(), list[Any](), Played()

    async def main() -> None:
        session = StreamSession(scripted_iterator(emit("a"), hang(), played=played), ledger=ledger)
        iterator = aiter(session)
        holder.extend([session, iterator])
        await anext(iterator)

    asyncio.run(main())
    assert [receipt.cause for receipt in ledger.receipts] == [Cause.CLIENT_DISCONNECT]
    assert played.ended == 1


async def test_sealed_sessions_are_dropped_silently(build: Build) -> None:
    """What was read to its end leaves nothing behind: no warning, no cycle, no task."""
    gc.collect()
    built = build(emit("a"))
    assert [chunk async for chunk in built.session] == ["a"]
    await built.session.receipt()
    session = weakref.ref(built.session)
    before = gc.isenabled()
    gc.disable()
    try:
        del built
        await settled()
        # A thread that ends holds its frames a moment longer.
        await asyncio.sleep(0.1)
        assert session() is None
        assert asyncio.all_tasks() == {asyncio.current_task()}
    finally:
        if before:
            gc.enable()
