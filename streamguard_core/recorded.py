"""A stream that is recorded and not carried: its chunks go past, from a provider to an application."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Unpack

from streamguard_core._base import SessionBase, _nothing
from streamguard_core._lifecycle import CLOSE_PRODUCER, SEAL, WAKE_CONSUMER, Action
from streamguard_core._seal import take_over
from streamguard_core.causes import Cause
from streamguard_core.options import SessionOptions
from streamguard_core.receipt import Receipt
from streamguard_core.statistics import Statistics
from streamguard_core.transitions import DRAINED


class RecordedStream(SessionBase):
    """One stream whose chunks somebody else moves: opened, told what has passed, sealed once.

    For provider calls that belong to no session. Whoever makes them says what passed and how it ended;
    the decisions are the protocol's, as in every session. There is neither a loop nor a timer: the
    cutoff closes what `on_close` knows, and with that the producer is over. Safe from any thread.

    What has passed counts as produced, committed and consumed: nobody here sees what the application
    does with it.

    Args:
        options: as for `StreamSession`; a policy, deadlines and gates would have no effect.

    Example:
        >>> stream = RecordedStream(model="m")
        >>> stream.start()
        >>> stream.passed(2)
        >>> stream.ended()
        >>> stream.sealed.cause, stream.sealed.consumed
        (<Cause.COMPLETED: 'COMPLETED'>, 2)
    """

    __slots__ = ("_heir", "_lock", "_noted", "_started", "carried", "catch_up", "held")

    def __init__(self, **options: Unpack[SessionOptions]) -> None:
        super().__init__(None, **options)
        # Reentrant: what is closed at the cutoff reports back.
        self._lock = threading.RLock()
        self._started = False
        self._heir: SessionBase | None = None
        """The session that goes on with this stream."""
        self._noted = 0
        self.carried: Callable[[], int] = int
        """How many chunks went past besides those that `passed()` was told of. Whoever carries them in one
        thread may count for itself, for the price of an addition; the first it tells, for the instant."""
        self.catch_up: Callable[[], None] = _nothing
        """Called before anybody ends the stream: whoever counts tells of what has passed until now."""
        self.held = False
        """The producer is an application's code, which closing transports does not end: whoever ends
        that says `ended()`, or `unconfirmed()`, also after a cutoff."""

    def start(self) -> Future[None] | None:
        """Begin to write the OPEN record. The provider may be called once the result is done.

        Returns:
            None where there is nothing to wait for: no ledger, or the stream has ended already.
        """
        with self._lock:
            if not self._started and self._protocol.live:
                self._started = True
                self._protocol.opened_ns = self._clock.monotonic_ns()
                self._protocol.reading()
                self._write_open()
            return self._opening

    def passed(self, chunks: int, at_ns: int | None = None) -> None:
        """That many chunks were handed to the application.

        Args:
            chunks: how many.
            at_ns: when, on the machine's monotonic clock; now by default.
        """
        if not chunks:
            return
        with self._lock:
            if self._protocol.go_past(chunks):
                return
            instant = self._clock.monotonic_ns() if at_ns is None else at_ns
            for _ in range(chunks):
                self._pass_one(instant)
            self._perform()

    def hand_over(self, session: SessionBase) -> bool:
        """Let a session that has not begun go on with this stream, and carry what somebody else moved until now.

        It has this stream's id, OPEN record, ledger and calls to providers, and seals the one receipt. What those
        calls tell this stream from now on they tell the session; who ends this one ends nothing.

        Args:
            session: its own tags, model and prices win over what was said here.

        Returns:
            False where this stream was not started, has ended or was handed over, or the session has begun or ended.
        """
        with self._lock:
            live = self._started and self._protocol.live and self._heir is None
            # A session that has ended unread has written its OPEN record with its receipt.
            if not live or session._open_written or session._goes_on:
                return False
            take_over(session._about, self._about)
            session._agree_as(self)
            session._ledger, session._opening, session._goes_on = self._ledger, self._opening, True
            session._prices = session._prices or self._prices
            closers, self._closers = self._closers or [], None
            # The same list: what is taken back from it is taken back from the session.
            closers += session._closers or ()
            session._closers = closers
            self._about, self._heir = session._about, session
        return True

    @property
    def cause(self) -> Cause | None:
        """The terminal cause, once it is fixed; the session's, where one goes on with this stream."""
        return super().cause if self._heir is None else self._heir.cause

    @property
    def sealed(self) -> Receipt | None:
        """The receipt, once it exists; the session's, where one goes on with this stream."""
        return super().sealed if self._heir is None else self._heir.sealed

    def connected(self) -> None:
        """The provider's connection stands."""
        if self._heir is None:
            super().connected()
        else:
            self._heir.connected()

    def on_close(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` at the cutoff, in the same step; at once when that has passed. Returns its undo."""
        if self._heir is None:
            return super().on_close(callback)
        return self._heir.on_close(callback)

    def statistics(self) -> Statistics:
        """A frozen snapshot of the counters and states."""
        with self._lock:
            self._note()
        return super().statistics()

    def ended(self, cause: Cause = Cause.COMPLETED, detail: str = "") -> None:
        """The provider's part is over; what ended it matters only where nothing else had before.

        Args:
            cause: COMPLETED, or what the provider failed with.
            detail: our own words; never the provider's, which may quote the prompt.
        """

        def step(now_ns: int) -> None:
            if cause is Cause.COMPLETED:
                before = self._protocol.live
                self._protocol.producer_finished(now_ns)
                if before:
                    self._protocol.take_eos(now_ns)
            else:
                self._protocol.producer_failed(cause, detail, now_ns)
            self._protocol.leave(now_ns)

        self._apply(step)

    def unconfirmed(self) -> None:
        """The producer was told to end, and was not seen to (G10)."""
        self._apply(self._protocol.give_up)

    def disconnected(self, detail: str = "") -> None:
        """The reader is gone: whatever the application reads for it is read for nobody."""
        self.catch_up()

        def step(now_ns: int) -> None:
            self._protocol.disconnected(detail, now_ns)
            # There is nobody who could read on for the usage of what has ended.
            self._protocol.stop_draining(now_ns)

        self._apply(step)

    def terminate(self, cause: Cause, detail: str = "") -> None:
        """End now, with authority. Safe from any thread, at any time, twice.

        Args:
            cause: why; the first one that is fixed stays (G8).
            detail: in our own words; it stands on the receipt.
        """
        self.catch_up()
        super().terminate(cause, detail)

    # -- inside ----------------------------------------------------------------------------------------

    def _pass_one(self, now_ns: int) -> None:
        protocol = self._protocol
        if protocol.go_past(1):
            return
        protocol.offer(0, now_ns)
        protocol.clear(protocol.produced)
        protocol.consume(protocol.commit(now_ns))

    def _note(self) -> None:
        """Take into account what was only counted."""
        carried = self.carried()
        self._noted, chunks = carried, carried - self._noted
        self.passed(chunks)

    def _apply(self, step: Callable[[int], object]) -> None:
        with self._lock:
            if self._sealed is None and self._heir is None:
                self._note()
                step(self._clock.monotonic_ns())
                self._perform()

    def _carry_out(self, action: Action) -> None:
        protocol = self._protocol
        if action is CLOSE_PRODUCER:
            self._close_transports()
            if not self.held:
                # What was closed in this step produces no more; nothing else is a producer here.
                protocol.producer_finished(self._clock.monotonic_ns())
        elif action is WAKE_CONSUMER:
            self._notify_cutoff()
            protocol.leave(self._clock.monotonic_ns())
        elif action is SEAL and protocol.state is DRAINED and self._started:
            self._build_receipt()
