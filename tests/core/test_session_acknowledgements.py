"""A session whose reader acknowledges: `consumed` is its word, its silence is seen, only the seal waits for it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamguard_core import (
    Cause,
    Notice,
    Receipt,
    Sealed,
    StreamSession,
    UsageError,
    grace,
)
from streamguard_core._ack_session import _fire
from streamguard_core.replay import Refusal, ResumeError
from streamguard_core.testing import run

STALL = 10.0


class Rig:
    """A stream, and a transport that takes everything at once and tells what it sends.

    Args:
        chunks: how many there are.
        pause: seconds before each but the first.
        stall: of the reader.
        options: of the session.
    """

    def __init__(
        self, chunks: int = 3, *, pause: float = 0, stall: float | None = STALL, **options: Any
    ) -> None:
        self._chunks, self._pause = chunks, pause
        self.session = StreamSession(self.produce(), **options)
        self.session.expect_acknowledgements(stall)
        self.sent = 0
        self.ended_at = 0.0

    async def produce(self) -> AsyncIterator[str]:
        """The producer."""
        for number in range(self._chunks):
            if number:
                await asyncio.sleep(self._pause)
            yield f"{number} "

    async def transport(self) -> None:
        """Send everything."""
        async for batch in self.session.batches(beside=True):
            self.sent += len(batch)
            self.session.sending(self.sent)
        self.ended_at = asyncio.get_running_loop().time()

    @property
    def consumed(self) -> int:
        """What the session says now."""
        return self.session.statistics().consumed


@pytest.mark.parametrize("options", [{}, {"own_task": True}], ids=["pulled", "pumped"])
async def test_consumed_is_the_readers_word(options: dict[str, Any]) -> None:
    """The transport has taken everything; only what was acknowledged counts, on the receipt as well."""
    rig = Rig(**options)
    await rig.transport()
    assert (rig.session.taken, rig.consumed, rig.session.cause) == (3, 0, Cause.COMPLETED)
    assert rig.session.acknowledge(2)
    assert rig.consumed == 2
    receipt = await rig.session.receipt()
    assert (receipt.produced, receipt.committed, receipt.consumed) == (3, 3, 2)
    assert receipt.waste.value == 1


async def test_the_last_word_is_waited_for() -> None:
    """EOS waits for nothing (G6); the seal waits for the reader's last acknowledgement and no moment longer."""
    rig = Rig()
    await rig.transport()
    assert (rig.session.settling, rig.session.sealed) == (True, None)
    await asyncio.sleep(0.5)
    rig.session.acknowledge(3)
    receipt = rig.session.sealed
    assert receipt is not None
    assert (receipt.consumed, receipt.waste.value) == (3, 0)
    assert not rig.session.settling


@pytest.mark.parametrize(("stall", "wait"), [(None, 2.0), (STALL, 2.0), (0.5, 0.5)])
async def test_a_last_word_that_does_not_come(stall: float | None, wait: float) -> None:
    """The seal waits two seconds, or the reader's deadline where that is less; then the receipt says what is known."""
    rig = Rig(stall=stall)
    await rig.transport()
    receipt = await rig.session.receipt()
    assert asyncio.get_running_loop().time() - rig.ended_at == pytest.approx(wait)
    assert (receipt.cause, receipt.consumed, receipt.eos_delivered) == (Cause.COMPLETED, 0, True)


async def test_a_reader_that_stops_acknowledging() -> None:
    """It is cut off when it has said nothing new for so long, although the transport takes everything."""
    rig = Rig(100, pause=1)
    sending = asyncio.create_task(rig.transport())
    await asyncio.sleep(2.5)
    assert rig.session.acknowledge(2)
    await sending
    assert rig.ended_at == pytest.approx(2.5 + STALL)
    receipt = await rig.session.receipt()
    assert (receipt.cause, receipt.consumed) == (Cause.CONSUMER_STALLED, 2)
    assert receipt.detail == "the reader acknowledged nothing in time"
    assert asyncio.get_running_loop().time() == rig.ended_at


async def test_a_slow_reader_is_not_stalled() -> None:
    """One that goes on acknowledging, however far behind, is never cut off; nor is one that has everything."""
    rig = Rig(30, pause=1)
    sending = asyncio.create_task(rig.transport())
    for offset in (1, 2, 3):
        await asyncio.sleep(9)
        assert rig.session.acknowledge(offset)
    await sending
    rig.session.acknowledge(30)
    assert (await rig.session.receipt()).cause is Cause.COMPLETED
    quiet = Rig(2, pause=60)
    sending = asyncio.create_task(quiet.transport())
    await asyncio.sleep(1)
    quiet.session.acknowledge(1)
    await sending
    assert (await quiet.session.receipt()).cause is Cause.COMPLETED


async def test_duplicates_and_older_ones_change_nothing() -> None:
    """Neither the count nor the deadline: repeating oneself is no progress."""
    rig = Rig(100, pause=1)
    sending = asyncio.create_task(rig.transport())
    await asyncio.sleep(3.5)
    assert rig.session.acknowledge(3)
    await asyncio.sleep(9)
    assert not rig.session.acknowledge(3)
    assert not rig.session.acknowledge(1)
    assert rig.consumed == 3
    await sending
    assert rig.ended_at == pytest.approx(3.5 + STALL)


async def test_more_than_was_sent_is_refused() -> None:
    """Never above what was committed, nor above what was sent of it (G3)."""
    rig = Rig(2)
    await rig.transport()
    with pytest.raises(ResumeError) as refused:
        rig.session.acknowledge(3)
    assert refused.value.refusal is Refusal.BEYOND
    assert rig.consumed == 0
    assert rig.session.acknowledge(2)
    assert not rig.session.acknowledge(2)  # after the seal as before


async def test_nobody_was_asked() -> None:
    """A stream whose reader does not acknowledge takes none, and counts what its transport took."""
    plain = StreamSession(iter(("0 ", "1 ")))
    assert [chunk async for chunk in plain] == ["0 ", "1 "]
    with pytest.raises(ResumeError) as refused:
        plain.acknowledge(1)
    assert refused.value.refusal is Refusal.UNEXPECTED
    with pytest.raises(UsageError, match="being read"):
        plain.expect_acknowledgements()
    plain.sending(2)
    assert not plain.acknowledges
    assert (await plain.receipt()).consumed == 2


@pytest.mark.parametrize("away", [STALL / 2, 3 * STALL])
async def test_a_reader_that_is_away_is_not_stalled(away: float) -> None:
    """Under grace its deadline stands still; what it resumes from is acknowledged, and the time runs from then."""
    rig = Rig(100, pause=1, on_disconnect=grace(60))
    sending = asyncio.create_task(rig.transport())
    await asyncio.sleep(2.5)
    rig.session.acknowledge(2)
    sending.cancel()
    await asyncio.wait([sending])
    rig.session.disconnected()
    await asyncio.sleep(away)
    assert rig.session.wanted() is False
    sending = asyncio.create_task(rig.transport())
    rig.session.reader_returned(2)
    assert rig.consumed == 2
    back = asyncio.get_running_loop().time()
    await sending
    assert rig.session.cause is Cause.CONSUMER_STALLED
    assert rig.ended_at == pytest.approx(back + STALL)


async def test_nothing_changes_after_the_receipt() -> None:
    """A last word that comes too late, and what is sent again, leave the session as its receipt has it."""
    rig = Rig()
    await rig.transport()
    rig.session.finish("stop")
    assert (rig.session.settling, rig.session.finish_reason) == (True, "stop")
    receipt = await rig.session.receipt()
    assert not rig.session.acknowledge(2)
    rig.session.sending(5)
    rig.session.reader_returned(3)
    assert rig.consumed == receipt.consumed == 0
    assert receipt.finish == "stop"
    whole = Rig()
    await whole.transport()
    whole.session.acknowledge(3)
    whole.session.sending(5)
    assert whole.consumed == 3


async def test_a_stream_that_takes_long_to_end_is_not_stalled_meanwhile() -> None:
    """Its cause is fixed: a deadline that passes while its producer is being closed is not even history (G8)."""

    async def stubborn() -> AsyncIterator[str]:
        yield "word"
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(3)

    session = StreamSession(stubborn(), own_task=True)
    for _ in range(2):
        session.expect_acknowledgements(1)  # the second time changes nothing
    async for batch in session.batches():
        session.sending(len(batch))
        session.cancel()
    receipt = await session.receipt()
    assert [signal.cause for signal in receipt.history] == [Cause.USER_CANCEL]


async def test_a_session_that_is_dropped() -> None:
    """It is finalised at once, whatever its reader owes: its timer does not hold it, and finds nothing to do."""
    session = StreamSession(iter(["word"]), stream_id="dropped")
    session.expect_acknowledgements(STALL)
    session.sending(1)
    timer, known = session._ack_timer, weakref.ref(session)
    assert timer is not None
    with pytest.warns(ResourceWarning, match="dropped"):  # noqa: PT031 - the collector may be what drops it
        del session
        gc.collect()
    assert known() is None
    assert timer.cancelled()
    _fire(known)  # where it was due in the same turn of the loop


async def test_a_reader_that_leaves_is_not_waited_for() -> None:
    """Whoever left before EOS will say no more: the receipt has what it had said, at once."""
    rig = Rig(100, pause=1)
    sending = asyncio.create_task(rig.transport())
    await asyncio.sleep(3.5)
    rig.session.acknowledge(1)
    rig.session.disconnected()
    await sending
    receipt = await rig.session.receipt()
    assert (receipt.cause, receipt.consumed) == (Cause.CLIENT_DISCONNECT, 1)
    assert asyncio.get_running_loop().time() == pytest.approx(3.5)


async def test_a_server_that_goes_does_not_wait() -> None:
    """Neither a stream that SHUTDOWN ends nor one that is settling then holds the process up."""
    rig = Rig(100, pause=1)
    sending = asyncio.create_task(rig.transport())
    await asyncio.sleep(3.5)
    assert (await rig.session.shutdown()).consumed == 0
    await sending
    assert asyncio.get_running_loop().time() == pytest.approx(3.5)
    done = Rig()
    await done.transport()
    done.session.terminate(Cause.SHUTDOWN)
    assert done.session.sealed is not None
    assert done.session.sealed.cause is Cause.COMPLETED


async def test_closing_does_not_wait() -> None:
    """Whoever closes the session says that nothing more will come."""
    rig = Rig()
    await rig.transport()
    rig.session.acknowledge(1)
    await rig.session.aclose()
    assert rig.session.sealed is not None
    assert rig.session.sealed.consumed == 1
    assert asyncio.get_running_loop().time() == rig.ended_at


def test_a_loop_that_ends_meanwhile() -> None:
    """The last word cannot come any more: the receipt is written (G11), and it is no dropped session."""
    receipts: list[Receipt] = []

    def keep(notice: Notice) -> None:
        if isinstance(notice, Sealed):
            receipts.append(notice.receipt)

    async def main() -> None:
        await Rig(observers=[keep]).transport()

    run(main())
    gc.collect()
    assert [(receipt.cause, receipt.consumed) for receipt in receipts] == [(Cause.COMPLETED, 0)]


async def test_nothing_is_left() -> None:
    """No task and no timer of a stream that was acknowledged outlives its seal."""
    before = asyncio.all_tasks()
    rig = Rig(100, pause=1)
    await rig.transport()
    await rig.session.receipt()
    assert rig.session._ack_timer is None
    assert rig.session._timer is None
    assert asyncio.all_tasks() == before
