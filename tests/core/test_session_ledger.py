"""Tests of the ledger's part: OPEN before the provider is called, one receipt after, and what fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import pytest

from streamguard_core import (
    AnyChunk,
    Attempt,
    Cause,
    LedgerError,
    MemoryLedger,
    OpenRecord,
    Receipt,
    StreamSession,
)
from streamguard_core.testing import (
    ManualClock,
    ScriptedPull,
    emit,
    hang,
    scripted_iterator,
    settled,
)

Build = Callable[..., Any]
ReadAll = Callable[[StreamSession], Coroutine[Any, Any, list[AnyChunk]]]


class Failing(MemoryLedger):
    """A ledger that fails as it is told: with an error in the future, or by raising."""

    def __init__(
        self, *, on_open: Exception | None = None, on_close: Exception | None = None
    ) -> None:
        super().__init__()
        self.on_open = on_open
        self.on_close = on_close
        self.raises = False

    def append_open(self, record: OpenRecord) -> Future[None]:
        """Keep it, or fail."""
        return self._answer(self.on_open) or super().append_open(record)

    def append_close(self, receipt: Receipt) -> Future[None]:
        """Keep it, or fail."""
        return self._answer(self.on_close) or super().append_close(receipt)

    def _answer(self, error: Exception | None) -> Future[None] | None:
        if error is None:
            return None
        if self.raises:
            raise error
        failed: Future[None] = Future()
        failed.set_exception(error)
        return failed


async def test_the_open_record_comes_first(build: Build) -> None:
    """The producer is not begun before the OPEN record is durable; the record says what is known."""
    ledger, durable = MemoryLedger(), Future[None]()
    append = ledger.append_open
    ledger.append_open = lambda record: (append(record), durable)[1]  # type: ignore[method-assign]
    built = build(
        emit("a"),
        ledger=ledger,
        model="m",
        provider="p",
        max_tokens=7,
        tags={"tenant": "t"},
        stream_id="s",
    )
    reading = asyncio.create_task(anext(aiter(built.session)))
    await settled()
    assert built.played.begun == 0
    (record,) = ledger.opened
    assert record.to_record() == {
        "v": 1,
        "kind": "OPEN",
        "stream_id": "s",
        "opened_us": record.opened_us,
        "model": "m",
        "provider": "p",
        "max_tokens": 7,
        "tags": {"tenant": "t"},
    }
    durable.set_result(None)
    assert await reading == "a"
    await built.session.aclose()
    if built.session.sealed is None:
        await built.session.shutdown()


ERRORS = [LedgerError("the disk is full"), OSError("secret path")]


@pytest.mark.parametrize("error", ERRORS, ids=["LedgerError", "OSError"])
@pytest.mark.parametrize("raises", [False, True], ids=["failed future", "raised"])
async def test_the_open_record_cannot_be_written(
    build: Build, read_all: ReadAll, error: Exception, raises: bool
) -> None:
    """The provider is never called; the stream is INTERNAL_ERROR, nobody else's fault, and receipted (G14)."""
    ledger = Failing(on_open=error)
    ledger.raises = raises
    built = build(emit("a"), ledger=ledger)
    try:
        assert await read_all(built.session) == []
    except LedgerError:
        pass  # A reader that pulls is told; one that is pushed reads EOS.
    receipt = await built.session.receipt()
    assert receipt.cause is Cause.INTERNAL_ERROR
    assert receipt.detail == "the OPEN record could not be written"
    assert "secret" not in repr(receipt)
    assert built.played.begun == 0
    assert ledger.receipts == [receipt]
    with pytest.raises(LedgerError):
        await built.session.opened()


@pytest.mark.parametrize("error", ERRORS, ids=["LedgerError", "OSError"])
@pytest.mark.parametrize("raises", [False, True], ids=["failed future", "raised"])
async def test_the_receipt_cannot_be_written(build: Build, error: Exception, raises: bool) -> None:
    """The stream ends as it does; whoever asks for the receipt is told, and gets it with the error."""
    ledger = Failing(on_close=error)
    ledger.raises = raises
    built = build(emit("a"), ledger=ledger)
    assert [chunk async for chunk in built.session] == ["a"]
    for _ in range(2):
        with pytest.raises(LedgerError) as caught:
            await built.session.receipt()
        assert caught.value.receipt is built.session.sealed
        assert caught.value.receipt is not None
        assert caught.value.receipt.cause is Cause.COMPLETED


async def test_opened_waits_for_the_open_record() -> None:
    """An endpoint waits for it before it calls the provider itself."""
    ledger, durable = MemoryLedger(), Future[None]()
    append = ledger.append_open
    ledger.append_open = lambda record: (append(record), durable)[1]  # type: ignore[method-assign]
    session = StreamSession(ledger=ledger)
    opening = asyncio.create_task(session.opened())
    await settled()
    assert not opening.done()
    durable.set_result(None)
    await opening
    await session.opened()
    await session.aclose()
    without = StreamSession(scripted_iterator())
    await without.opened()
    assert [chunk async for chunk in without] == []


async def test_opened_fails_with_the_ledger() -> None:
    """The stream is cut off, so that nobody calls the provider after all."""
    session = StreamSession(ledger=Failing(on_open=LedgerError("full")))
    with pytest.raises(LedgerError, match="full"):
        await session.opened()
    assert session.cause is Cause.INTERNAL_ERROR


async def test_a_slow_ledger_never_holds_the_reader() -> None:
    """EOS does not wait for the receipt to be durable; `receipt()` does (G6)."""
    ledger, durable = MemoryLedger(), Future[None]()
    append = ledger.append_close
    ledger.append_close = lambda receipt: (append(receipt), durable)[1]  # type: ignore[method-assign]
    session = StreamSession(ScriptedPull(emit("a")), ledger=ledger)
    assert [chunk async for chunk in session] == ["a"]
    assert session.sealed is not None
    waiting = asyncio.create_task(session.receipt())
    await settled()
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not durable.cancelled()
    durable.set_result(None)
    assert await session.receipt() is session.sealed


async def test_what_producers_report_stands_on_the_receipt(build: Build) -> None:
    """Model, request id, attempts, connection and finish; the response's model wins (pitfall 28)."""
    built = build(emit("a"), model="asked for", provider="p")
    session = built.session
    session.start()
    session.connected()
    session.connected()
    session.identify(model="answered", request_id="r1")
    session.identify()
    for number in range(70):
        session.attempt(Attempt(provider="p", request_id=f"r{number}", status=200))
    session.finish("stop")
    session.finish()
    assert [chunk async for chunk in session] == ["a"]
    receipt = await session.receipt()
    assert (receipt.model, receipt.request_id, receipt.finish) == ("answered", "r1", "stop")
    assert len(receipt.attempts) == 64
    assert receipt.instants.connected_ns == 0


async def test_a_run_producer_reports_through_out() -> None:
    """`out` has the same five calls as the session."""
    undone: list[int] = []

    class Reporting:
        async def run(self, *, out: Any, cancel_event: Any) -> None:
            out.connected()
            out.identify(model="m", request_id="r")
            out.attempt(Attempt(status=200))
            out.on_close(lambda: undone.append(1))()
            out.on_close(lambda: undone.append(2))
            out.finish("length")
            await out("a")
            assert not cancel_event.is_set()

    session = StreamSession(Reporting())
    assert [chunk async for chunk in session] == ["a"]
    receipt = await session.receipt()
    assert (receipt.model, receipt.request_id, receipt.finish) == ("m", "r", "length")
    assert receipt.instants.connected_ns == 0
    assert len(receipt.attempts) == 1
    assert undone == []


@pytest.mark.filterwarnings("ignore:.*dropped without being closed:ResourceWarning")
async def test_reports_about_a_session_that_is_gone() -> None:
    """They change nothing and break nothing; a transport is closed at once."""
    holder: list[Any] = []

    class Reporting:
        async def run(self, *, out: Any, cancel_event: Any) -> None:
            holder.append(out)
            try:
                await cancel_event.wait()
            finally:
                out.connected()
                out.identify(model="m")
                out.attempt(Attempt())
                out.finish("stop")
                closed: list[int] = []
                out.on_close(lambda: closed.append(1))()
                holder.append(closed)

    session = StreamSession(Reporting())
    session.start()
    await settled()
    del session
    await settled()
    assert holder[1] == [1]


async def test_wall_time_that_steps_back() -> None:
    """Durations are monotonic, timestamps are wall time, and a step back breaks neither (pitfall 36)."""
    clock = ManualClock(monotonic_ns=1_000, wall_us=5_000_000)
    session = StreamSession(scripted_iterator(emit("a")), clock=clock)
    async for _ in session:
        clock.advance(2)
        clock.step_wall(-4)
    receipt = await session.receipt()
    assert receipt.instants.opened_ns == 1_000
    assert receipt.instants.sealed_ns == 2_000_001_000
    assert (receipt.opened_us, receipt.sealed_us) == (5_000_000, 3_000_000)


async def test_stream_ids_are_time_ordered_and_unique() -> None:
    """They have the layout of a UUIDv7, and are the caller's own where given."""
    import uuid

    ids = [uuid.UUID(StreamSession().stream_id) for _ in range(50)]
    assert len(set(ids)) == 50
    assert all(one.version == 7 and one.variant == uuid.RFC_4122 for one in ids)
    assert StreamSession(stream_id="mine").stream_id == "mine"


async def test_a_live_session_has_no_receipt_yet(build: Build) -> None:
    """`sealed` and `cause` are None while the stream lives."""
    built = build(emit("a"), hang())
    assert await anext(aiter(built.session)) == "a"
    assert built.session.sealed is None
    built.session.cancel()
    assert (await built.session.receipt()) is built.session.sealed
