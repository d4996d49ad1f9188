"""Runs a blocking iterator in whatever thread reads it, and performs what the protocol decides about it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from streamguard_core._base import SessionBase
from streamguard_core._deadlines import next_look, tick
from streamguard_core.chunks import AnyChunk, buffer_size
from streamguard_core.dispatcher import Dispatcher
from streamguard_core.errors import StreamStopped, UsageError
from streamguard_core.limits import NANOSECONDS
from streamguard_core.producers import Drive, classify
from streamguard_core.protocol import Action
from streamguard_core.transitions import DRAINED, DRAINING, STOPPING


class SyncDriver(SessionBase):
    """The iterator and the timer of a synchronous session, and the lock under which both are touched."""

    __slots__ = ("_dispatcher", "_done", "_inside", "_iterator", "_lock", "_timer")

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        # Reentrant: closing an iterator runs its code, which may report back.
        self._lock = threading.RLock()
        self._done = threading.Event()
        self._dispatcher = Dispatcher(self._protocol, self._gates)
        self._iterator: Iterator[AnyChunk] | None = None
        self._inside = False
        """True while a thread runs the iterator, which nobody else may touch then."""
        self._timer: threading.Timer | None = None

    # -- the iterator ----------------------------------------------------------------------------------

    def _call(self) -> Iterator[AnyChunk]:
        """The producer's iterator; a factory may call the provider, and block."""
        if self._drive is Drive.FACTORY:
            made = self._producer()
            self._drive, self._producer = classify(made), made
        if self._drive is not Drive.SYNC:
            raise UsageError(
                f"a {type(self._producer).__name__} was given to a SyncStreamSession;"
                " give a sync iterator, or use StreamSession"
            )
        return iter(self._producer)

    def _enter(self) -> bool:
        """Before the cutoff, this thread may run the producer's code; then nobody else may."""
        with self._lock:
            self._inside = self._inside or self._protocol.live
            return self._protocol.live

    def _drain(self) -> None:
        """Under a drain the provider is read on, right here; one that runs, by the thread that is in it."""
        while True:
            with self._lock:
                iterator = self._iterator
                if self._protocol.producer is not DRAINING or self._inside:
                    return
                if iterator is None:
                    # It was never called: there is nothing to read on.
                    self._close_iterator()
                    return
                self._inside = True
            self._run(iterator)
            self._on_timer()

    def _run(self, iterator: Iterator[AnyChunk]) -> None:
        """Run the iterator for one chunk, and do what its answer asks for."""
        try:
            chunk = next(iterator)
        except StopIteration:
            self._producer_over(None)
        except BaseException as error:
            self._producer_over(error)
            if not isinstance(error, Exception | StreamStopped):
                raise
        else:
            self._offer(chunk)

    def _offer(self, chunk: AnyChunk) -> None:
        with self._lock:
            self._inside = False
            now_ns = self._clock.monotonic_ns()
            self._dispatcher.offer(chunk, buffer_size(chunk), now_ns)
            if chunk:
                self._protocol.content(now_ns)
            self._protocol.producer_since_ns = None
            if self._protocol.timed:
                self._protocol.consumer_since_ns = now_ns
            self._perform()
            if self._protocol.producer is STOPPING:
                self._close_iterator()

    def _producer_over(self, error: BaseException | None) -> None:
        """The iterator ended, by itself or by failing: what gates still hold is decided first."""
        with self._lock:
            self._inside = False
            if error is None and self._protocol.live:
                self._dispatcher.finished(self._clock.monotonic_ns())
            self._producer_ended(error)

    # -- what was decided ------------------------------------------------------------------------------

    def _apply(self, step: Callable[[int], object]) -> None:
        with self._lock:
            step(self._clock.monotonic_ns())
            self._perform()

    def _carry_out(self, action: Action) -> None:
        if action is Action.CLOSE_PRODUCER:
            self._close_transports()
            self._close_iterator()
        elif action is Action.WAKE_CONSUMER:
            self._dispatcher.discard()
            self._notify_cutoff()
        elif action is Action.ARM:
            self._arm()
        elif action is Action.SEAL and self._protocol.state is DRAINED:
            self._build_receipt()
            self._disarm()
            self._done.set()

    def _close_iterator(self) -> None:
        """Close the iterator if no thread is in it; else that thread closes it when it returns.

        What was given and never called may have been opened before.
        """
        if self._inside:
            return
        unread = self._producer if self._drive is Drive.SYNC else None
        iterator, self._iterator = self._iterator or unread, None
        error: BaseException | None = None
        try:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        except Exception as raised:
            error = raised
        self._producer_ended(error)

    # -- time ------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """One timer thread for the earliest deadline, only where there is one."""
        self._disarm()
        now_ns = self._clock.monotonic_ns()
        at_ns = next_look(self._protocol, now_ns)
        if at_ns is None or self._sealed is not None:
            return
        delay = max(at_ns - now_ns, 0) / NANOSECONDS
        self._timer = threading.Timer(delay, self._on_timer)
        self._timer.daemon = True
        self._timer.start()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        with self._lock:
            tick(self._protocol, self._clock.monotonic_ns())
            self._perform()
            if self._sealed is None:
                self._arm()
