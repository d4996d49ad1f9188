"""A call that was a stream of its own goes on in a session: one id, one OPEN record, one receipt."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from streamguard_core import (
    Attempt,
    Cause,
    LedgerError,
    MemoryLedger,
    OpenRecord,
    RecordedStream,
    StreamSession,
    SyncStreamSession,
    Usage,
    by_provider,
)
from streamguard_core.termination import OnClose, Termination

ROW = Termination(provider="p", on_close=OnClose.BILLS_FULL)
USAGE = Usage.reported_by_provider(input=3, output=2)


def begun(**options: Any) -> RecordedStream:
    """A call that is under way."""
    usual: dict[str, Any] = {"ledger": MemoryLedger(), "model": "m", "provider": "p"}
    stream = RecordedStream(**(usual | options))
    stream.start()
    return stream


async def words() -> Any:
    """What the application makes of the call."""
    yield "never "
    yield "again"


async def test_one_open_record_and_one_receipt() -> None:
    """The session's receipt has the call's id, name and attempt, and what was said of both (G11)."""
    ledger = MemoryLedger()
    call = begun(ledger=ledger, tags={"tenant": "a", "route": "/"}, max_tokens=9)
    call.passed(1)
    session = StreamSession(words(), tags={"tenant": "b"}, ledger=MemoryLedger(), model="mine")
    assert call.hand_over(session)
    assert session.stream_id == call.stream_id
    call.attempt(Attempt(provider="p", usage=USAGE, finish="stop"))
    call.ended()
    assert [chunk async for chunk in session] == ["never ", "again"]
    receipt = await session.receipt()
    assert ledger.receipts == [receipt]
    assert [record.stream_id for record in ledger.opened] == [receipt.stream_id]
    assert (receipt.provider, receipt.model, receipt.max_tokens) == ("p", "mine", 9)
    assert receipt.tags == {"tenant": "b", "route": "/"}
    assert receipt.opened_us == ledger.opened[0].opened_us
    assert (receipt.cause, receipt.consumed, receipt.finish) == (Cause.COMPLETED, 2, "stop")
    assert receipt.usage == USAGE
    assert (call.sealed, call.cause) == (receipt, Cause.COMPLETED)


@pytest.mark.parametrize(
    "end",
    [
        lambda call: call.disconnected("gone"),
        lambda call: call.terminate(Cause.OPERATOR_CANCEL),
        lambda call: call.ended(Cause.PRODUCER_ERROR, "refused"),
        lambda call: call.unconfirmed(),
        lambda call: call.passed(5),
    ],
)
async def test_who_ends_the_call_ends_no_session(end: Callable[[RecordedStream], None]) -> None:
    """The application may close one call and make another; the session alone says when it is over."""
    call, session = begun(), StreamSession(words())
    call.hand_over(session)
    end(call)
    assert (call.cause, session.cause) == (None, None)
    assert [chunk async for chunk in session] == ["never ", "again"]
    receipt = await session.receipt()
    assert (receipt.cause, receipt.produced, receipt.consumed) == (Cause.COMPLETED, 2, 2)


async def test_what_the_cutoff_closes() -> None:
    """Transports that were opened before and after, and none that was taken back meanwhile (G10)."""
    closed: list[str] = []
    call, session = begun(), StreamSession(words())
    take_back = call.on_close(lambda: closed.append("taken back"))
    call.on_close(lambda: closed.append("before"))
    session.on_close(lambda: closed.append("the session's"))
    call.hand_over(session)
    take_back()
    call.on_close(lambda: closed.append("after"))
    session.start()
    session.cancel()
    await session.aclose()
    assert closed == ["before", "the session's", "after"]
    assert session.sealed is not None
    assert session.sealed.cause is Cause.USER_CANCEL


def test_in_a_session_without_a_loop() -> None:
    """A thread's session goes on with a call just so; its row says what a cut has prevented."""
    call = begun(termination=ROW)
    session = SyncStreamSession(iter(["a", "b"]))
    assert call.hand_over(session)
    with session:
        assert next(iter(session)) == "a"
    receipt = session.receipt()
    assert (receipt.stream_id, receipt.cause) == (call.stream_id, Cause.CLIENT_DISCONNECT)
    assert receipt.termination == str(ROW)


async def test_a_session_that_nobody_begins() -> None:
    """The OPEN record is not left without a receipt: closed unread, it says that its reader has left."""
    ledger = MemoryLedger()
    session = StreamSession(words())
    begun(ledger=ledger).hand_over(session)
    await session.aclose()
    assert [receipt.cause for receipt in ledger.receipts] == [Cause.CLIENT_DISCONNECT]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_session_that_is_dropped() -> None:
    """Nor does the collector leave it without."""
    ledger = MemoryLedger()
    session = StreamSession(iter("ab"))
    begun(ledger=ledger).hand_over(session)
    del session
    gc.collect()
    assert [receipt.cause for receipt in ledger.receipts] == [Cause.CONSUMER_ERROR]


async def test_an_open_record_that_cannot_be_written() -> None:
    """What the call waits for the session waits for, too, and is cut off with it (G12)."""

    class Slow(MemoryLedger):
        opening: Future[None] = Future()

        def append_open(self, record: OpenRecord) -> Future[None]:
            return self.opening

    ledger = Slow()
    call, session = begun(ledger=ledger), StreamSession(words())
    call.hand_over(session)
    ledger.opening.set_exception(LedgerError("full"))
    with pytest.raises(LedgerError):
        await session.opened()
    assert session.cause is Cause.INTERNAL_ERROR


async def test_what_cannot_be_handed_over() -> None:
    """A call that is over or not begun, a session that is; and nothing twice."""
    over, fresh = begun(), RecordedStream()
    over.ended()
    started, ended = StreamSession(words()), StreamSession(words())
    started.start()
    ended.cancel()
    twice, session = begun(), StreamSession(words())
    assert twice.hand_over(session)
    for call, heir in (
        (over, StreamSession(words())),
        (fresh, StreamSession(words())),
        (begun(), started),
        (begun(), ended),
        (begun(), session),
        (twice, StreamSession(words())),
    ):
        name = heir.stream_id
        assert not call.hand_over(heir)
        assert heir.stream_id == name
    for each in (started, session):
        await each.aclose()


@pytest.mark.parametrize(
    "own", [None, Termination(provider="mine", on_close=OnClose.STOPS_BILLING)]
)
async def test_the_row_that_was_told_first_holds_where_the_session_has_none(
    own: Termination | None,
) -> None:
    """What closing would save was told of the call; a session that only has a rule heeds it."""
    call = begun(termination=ROW)
    session = StreamSession(words(), on_disconnect=by_provider(), termination=own)
    assert call.hand_over(session)
    call.connected()
    assert await anext(aiter(session)) == "never "
    session.disconnected("gone")
    receipt = await session.receipt()
    assert receipt.termination == str(own or ROW)
