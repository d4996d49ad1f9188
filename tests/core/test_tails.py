"""Tests of a stream whose reader left when only the usage was missing, or in the middle of a step."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from streamguard_core import (
    Cause,
    CloseState,
    Count,
    CountSource,
    DrainEnd,
    Receipt,
    StreamSession,
    SyncStreamSession,
    Usage,
    by_provider,
)
from streamguard_core.testing import (
    ManualClock,
    ScriptedPull,
    emit,
    finish,
    hang,
    settled,
    wait,
)

from .terms import BILLS, NOTHING, STOPS, Table


async def test_a_tail_says_how_it_ended() -> None:
    """Read on for the usage: it came, or the bounded moment was over; nothing was prevented either way."""
    usage = Usage.reported_by_provider(output=1)
    for script, end in (
        ((finish(None, usage),), DrainEnd.FINISHED),
        ((hang(),), DrainEnd.SECONDS),
        ((emit("z" * 70_000), hang()), DrainEnd.BYTES),
    ):
        session = StreamSession(
            ScriptedPull(emit("a"), finish("stop"), wait(1), *script), own_task=True, max_tokens=9
        )
        session.start()
        await settled()
        session.disconnected("left")
        receipt = await session.receipt()
        assert (receipt.cause, receipt.policy, receipt.drain) == (Cause.COMPLETED, "tail", end)
        assert (receipt.client_left_early, receipt.prevented) == (True, NOTHING)


def test_a_tail_is_harvested_without_a_loop() -> None:
    """A sync session reads on for the usage in the reader's thread, for a bounded moment."""
    clock = ManualClock()

    def words(*, trickles: bool) -> Iterator[str]:
        yield "a"
        session.finish("stop")
        yield ""
        while trickles:
            clock.advance(0.5)
            yield ""
        session.finish(None, Usage.reported_by_provider(output=7))

    for trickles, end in ((False, DrainEnd.FINISHED), (True, DrainEnd.SECONDS)):
        session = SyncStreamSession(clock=clock, max_tokens=9)
        session.attach(words(trickles=trickles))
        with session:
            reading = iter(session)
            assert [next(reading), next(reading)] == ["a", ""]
        receipt = session.receipt()
        assert (receipt.cause, receipt.policy, receipt.drain) == (Cause.COMPLETED, "tail", end)
        assert (receipt.client_left_early, receipt.prevented) == (True, NOTHING)
        assert receipt.output.upper == (None if trickles else 7)


async def receipt_of_cancelled_reader(session: StreamSession) -> Receipt:
    """Read a chunk, then have the reader's task cancelled while it waits for the next."""
    reading = aiter(session)
    await anext(reading)
    task = asyncio.ensure_future(anext(reading))
    await settled()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return await session.receipt()


async def test_a_tail_whose_iterator_was_broken_is_stopped() -> None:
    """The cancellation of the reader's task broke the iterator: its usage is not known, and nobody says it is."""
    session = StreamSession(ScriptedPull(emit("a"), finish("stop"), hang()), max_tokens=9)
    receipt = await receipt_of_cancelled_reader(session)
    assert (receipt.cause, receipt.policy) == (Cause.COMPLETED, "tail")
    assert (receipt.drain, receipt.close) == (DrainEnd.STOPPED, CloseState.CONFIRMED)
    assert (receipt.prevented, receipt.output.source) == (NOTHING, CountSource.CHUNKS)


async def test_a_broken_iterator_is_not_booked_as_read_to_its_end() -> None:
    """The provider turned out to be another one when the reader's task was cancelled: open, not what was seen."""
    rows = Table(asked=STOPS, full=BILLS)

    async def chunks() -> Any:
        yield "a"
        session.identify(model="full")
        await asyncio.Event().wait()

    session = StreamSession(
        chunks(), model="asked", on_disconnect=by_provider(), termination=rows, max_tokens=50
    )
    receipt = await receipt_of_cancelled_reader(session)
    assert (receipt.policy, receipt.drain) == ("drain(60s)", DrainEnd.STOPPED)
    assert receipt.output == Count(None, 0, 50, CountSource.CHUNKS)
    assert receipt.prevented == NOTHING
