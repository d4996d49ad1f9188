"""The part of a session that takes its reader's acknowledgements."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any, Final

from streamguard_core._loop_session import LoopSession
from streamguard_core.acknowledgements import Acknowledgements
from streamguard_core.causes import Cause
from streamguard_core.errors import UsageError
from streamguard_core.limits import NANOSECONDS
from streamguard_core.receipt import Receipt
from streamguard_core.replay import Refusal, ResumeError
from streamguard_core.transitions import ENDED, READING, SEALED

_EARLY_NS: Final = 1_000_000
"""Timers are floats of seconds: one that fires this much early is taken as on time."""


class AcknowledgingSession(LoopSession):
    """With a reader that acknowledges, `consumed` is what it has said that it has, and its silence is seen.

    What flows does not depend on it: room is made by what the transport takes, EOS waits for nothing (G6).
    Only the seal waits, for a bounded time, for the acknowledgement of what was sent last.
    """

    __slots__ = ("_ack_timer", "_acks", "_on_sealed", "_unsettled")

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._acks: Acknowledgements | None = None
        self._ack_timer: asyncio.TimerHandle | None = None
        self._on_sealed: Callable[[Receipt], None] | None = None
        self._unsettled = False
        """Everything else has ended: only the last acknowledgement is waited for."""

    # -- what adapters call ----------------------------------------------------------------------------

    def expect_acknowledgements(self, stall: float | None = None) -> None:
        """From now on `consumed` is what the reader acknowledges.

        Args:
            stall: how long the reader may acknowledge nothing new while it has not acknowledged everything that
                was sent, in seconds; then the stream is cut off as CONSUMER_STALLED. None for any time.

        Raises:
            UsageError: when something was sent already, without anybody having been asked to acknowledge it.
        """
        self.start()
        if self._acks is None:
            if self._protocol.consumed:
                raise UsageError(
                    "expect_acknowledgements() was called on a stream that is being read; call it before"
                )
            self._acks = Acknowledgements(stall)

    def sending(self, offset: int) -> None:
        """Chunks up to this commit offset are sent to the reader now; each adapter says so before it sends."""
        if self._acks is not None:
            self._acks.sending(offset, self._protocol.consumed, self._clock.monotonic_ns())
            self._watch_acknowledgements()

    def acknowledge(self, offset: int) -> bool:
        """The reader has every chunk up to this commit offset.

        Call it on the session's loop.

        Returns:
            Whether that was news; a duplicate, an older one, and one after the seal change nothing.

        Raises:
            ResumeError: when so much was never sent, or this reader was not expected to acknowledge.
        """
        acks = self._acks
        if acks is None:
            raise ResumeError(
                Refusal.UNEXPECTED,
                "this stream's reader did not say that it acknowledges; say so when the stream is asked for",
            )
        if self._protocol.state is SEALED:
            return False
        news = acks.acknowledge(offset, self._protocol.consumed, self._clock.monotonic_ns())
        if self._unsettled and not acks.outstanding:
            self._stop_waiting()
        return news

    def reader_returned(self, offset: int) -> None:
        """A reader that was away goes on from this commit offset, so it has what is before; it owes the rest from now.

        Raises:
            ResumeError: when so much was never sent.
        """
        acks = self._acks
        if acks is not None and self._protocol.live:
            now_ns = self._clock.monotonic_ns()
            acks.acknowledge(offset, self._protocol.consumed, now_ns)
            acks.restart(now_ns)
            self._watch_acknowledgements()

    def on_sealed(self, callback: Callable[[Receipt], None]) -> None:
        """Call `callback` with the receipt when it is written, in the same step, or at once; there is room for one."""
        if self._sealed is None:
            self._on_sealed = callback
        else:
            callback(self._sealed)

    @property
    def acknowledges(self) -> bool:
        """Whether this stream's reader is expected to acknowledge."""
        return self._acks is not None

    @property
    def settling(self) -> bool:
        """Everything has ended but for the last acknowledgement, which is waited for, for a bounded time."""
        return self._unsettled

    @property
    def taken(self) -> int:
        """How many chunks the reader's transport has taken: `consumed`, but for a reader that acknowledges."""
        return self._protocol.consumed

    async def aclose(self) -> None:
        """Nobody reads on. A live stream is left to its policy; one that ends is waited for until its seal."""
        self._stop_waiting()
        await super().aclose()

    def __del__(self) -> None:
        if getattr(self, "_unsettled", False):
            # Its loop has ended meanwhile: the last acknowledgement cannot come any more.
            self._apply(lambda _: self._stop_waiting())
        super().__del__()

    # -- silence ---------------------------------------------------------------------------------------

    def _watch_acknowledgements(self) -> None:
        """One timer; it is moved when it fires, not per chunk."""
        acks, loop = self._acks, self._loop
        if self._ack_timer is None and acks is not None and loop is not None:
            self._arm_acknowledgements(acks, loop)

    def _arm_acknowledgements(
        self, acks: Acknowledgements, loop: asyncio.AbstractEventLoop
    ) -> None:
        if (due_ns := acks.due_ns) is not None and self._protocol.live:
            wait = max(due_ns - self._clock.monotonic_ns(), 0) / NANOSECONDS
            self._ack_timer = loop.call_later(wait, _fire, weakref.ref(self))

    def _acknowledgement_is_due(self) -> None:
        self._ack_timer = None
        acks, loop = self._acks, self._loop
        if acks is None or loop is None or not self._protocol.live:
            return
        if self._protocol.consumer is not READING:
            acks.restart(
                None
            )  # It is away, and comes back or does not: that is its policy's to say.
            return
        due_ns = acks.due_ns
        if due_ns is not None and due_ns - self._clock.monotonic_ns() < _EARLY_NS:
            self.terminate(Cause.CONSUMER_STALLED, "the reader acknowledged nothing in time")
        else:
            self._arm_acknowledgements(acks, loop)

    # -- the seal --------------------------------------------------------------------------------------

    def _seal(self) -> None:
        """Seal, or first give the acknowledgement of what was sent last a moment to arrive."""
        acks, loop = self._acks, self._loop
        if acks is None or loop is None or loop.is_closed() or not self._worth_waiting(acks):
            self._seal_now()
        else:
            self._unsettled = True
            self._stop_ack_timer()
            self._ack_timer = loop.call_later(acks.settle_seconds, self._stop_waiting)

    def _worth_waiting(self, acks: Acknowledgements) -> bool:
        """A reader that took EOS will say so; one that stalled or left will not, and a server that goes has no time."""
        told = self.cause is not Cause.CONSUMER_STALLED and self.cause is not Cause.SHUTDOWN
        return acks.outstanding and self._protocol.consumer is ENDED and told

    def _end(self, cause: Cause, detail: str, now_ns: int) -> None:
        super()._end(cause, detail, now_ns)
        if cause is Cause.SHUTDOWN:
            self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._unsettled:
            self._seal_now()

    def _seal_now(self) -> None:
        self._unsettled = False
        self._stop_ack_timer()
        if self._acks is not None:
            self._about.acknowledged = self._consumed()
        super()._seal()
        told, self._on_sealed = self._on_sealed, None
        if told is not None and self._sealed is not None:
            told(self._sealed)

    def _stop_ack_timer(self) -> None:
        timer, self._ack_timer = self._ack_timer, None
        if timer is not None:
            timer.cancel()

    def _consumed(self) -> int:
        taken, acks = self._protocol.consumed, self._acks
        return taken if acks is None else acks.consumed(taken)


def _fire(target: Callable[[], AcknowledgingSession | None]) -> None:
    session = target()
    if session is not None:
        session._acknowledgement_is_due()
