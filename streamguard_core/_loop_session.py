"""The part of a session that lives on an event loop: start, timers, actions, and waiting for the seal."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from streamguard_core._base import SessionBase
from streamguard_core._deadlines import next_look, tick
from streamguard_core._failures import describe
from streamguard_core._interrupt import Interrupt, current_task
from streamguard_core._lifecycle import (
    ARM,
    CLOSE_PRODUCER,
    WAKE_CONSUMER,
    WAKE_PRODUCER,
    Action,
)
from streamguard_core._pump import Unread
from streamguard_core.causes import Cause
from streamguard_core.clock import SystemClock, clock_of
from streamguard_core.errors import CutOffError, LedgerError, UsageError
from streamguard_core.limits import NANOSECONDS
from streamguard_core.producers import Drive
from streamguard_core.running import running_task
from streamguard_core.transitions import DRAINED, UNCONFIRMED

T = TypeVar("T")
_TICK_NS = 1_000_000
"""Timers are floats of seconds: one that fires this much early is taken as on time."""


class LoopSession(SessionBase):
    """Performs what the protocol decides, on one event loop. The pull and push readers build on it."""

    __slots__ = ("_armed_ns", "_interrupt", "_loop", "_thread", "_timer", "_waiters")

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._timer: asyncio.TimerHandle | None = None
        self._armed_ns = 0
        self._interrupt = Interrupt()
        self._waiters: list[asyncio.Future[None]] | None = None
        if type(self._clock) is SystemClock and (loop := _running_loop()) is not None:
            # Signals may come before start(): all instants are on one clock.
            self._clock = clock_of(loop)
            self._protocol.opened_ns = self._clock.monotonic_ns()

    # -- start -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin: write the OPEN record, start the clocks and, where something looks ahead, the producer.

        Raises:
            UsageError: outside a running event loop, or on another loop than before.
        """
        if self._loop is not None:
            self._check_loop()
            return
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                "start() was called outside a running event loop; call it from async code,"
                " or use SyncStreamSession"
            ) from None
        self._thread = threading.get_ident()
        if type(self._clock) is SystemClock:
            self._clock = clock_of(self._loop)
        if self._protocol.live:
            self._protocol.opened_ns = self._clock.monotonic_ns()
            self._protocol.producer_since_ns = self._protocol.opened_ns
        self._write_open()
        if self._protocol.timed or self._protocol.until_ns is not None:
            self._arm()
        if self._producer is not None:
            self._launch()

    def attach(self, producer: object) -> None:
        """Give the producer that was not there when the session was built.

        Raises:
            UsageError: when there is one already, or it is no producer.
        """
        self._set_producer(producer)
        if self._loop is not None:
            self._launch()

    async def opened(self) -> None:
        """Wait until the OPEN record is durable; only then may the provider be called.

        Raises:
            LedgerError: when the ledger could not write it. The stream is cut off as INTERNAL_ERROR.
        """
        self.start()
        await self._wait_open()

    async def governed(self, awaitable: Awaitable[T]) -> T:
        """Run `awaitable` in this task, interrupted at the cutoff.

        Raises:
            CutOffError: when the stream was cut off before or meanwhile.
        """
        self.start()
        if not self._protocol.live:
            if asyncio.iscoroutine(awaitable):
                awaitable.close()
            raise CutOffError(f"the stream was cut off ({self.cause}) before this call began")
        interrupt = Interrupt()
        interrupt.watch(running_task(self._loop))
        undo = self.on_close(interrupt.send_soon)
        try:
            return await awaitable
        except asyncio.CancelledError:
            if interrupt.issued and not interrupt.absorb():
                raise CutOffError(
                    f"the stream was cut off ({self.cause}) during this call"
                ) from None
            raise
        finally:
            undo()
            interrupt.absorb()
            interrupt.task = None

    # -- endings ---------------------------------------------------------------------------------------

    def disconnected(self, detail: str = "") -> None:
        """The reader's transport is gone: intent, which the policy turns into authority (G9)."""
        self._apply(lambda now_ns: self._leave(detail, now_ns))

    def reconnected(self) -> None:
        """Under `grace`: the reader is back, the stream goes on."""
        self._apply(lambda _: self._protocol.reading())

    async def shutdown(self, grace: float = 0.0) -> Any:
        """End what nothing else has ended, as SHUTDOWN (G8).

        Args:
            grace: how long it may complete by itself before that, in seconds.

        Returns:
            The receipt.

        Raises:
            LedgerError: when the ledger could not make it durable.
        """
        self.start()
        if grace > 0:
            await self._wait_sealed(grace)
        self.terminate(Cause.SHUTDOWN)
        # A reader that is parked takes its EOS in the next turns; one that is not reading is not waited for.
        await self._wait_sealed(min(0.05, self._protocol.deadlines.close))
        self._apply(self._protocol.leave)
        return await self.receipt()

    async def aclose(self) -> None:
        """Nobody reads on. A live stream is left to its policy; one that ends is waited for until its seal."""
        if self._loop is None:
            if self._protocol.live:
                self.terminate(Cause.CLIENT_DISCONNECT, "closed before it was started")
            # Nobody has run it, and what was opened before it was given is open still.
            if self._drive in (Drive.ASYNC, Drive.SYNC):
                await Unread(self._producer).aclose()
            return
        self._apply(lambda now_ns: self._leave("the session was closed", now_ns))
        self._apply(self._protocol.leave)
        if not self._protocol.live:
            await self.receipt()

    async def receipt(self) -> Any:
        """Wait for the seal and for the ledger; returns the receipt.

        Raises:
            LedgerError: when the ledger could not make it durable; `.receipt` holds it.
            UsageError: when the stream was never started.
        """
        if self._loop is None and self._protocol.live:
            raise UsageError(
                "receipt() was called before the stream was started; start() it or read it first"
            )
        if self._interrupt.task is not None and self._interrupt.task is current_task():
            # The reader itself asks: it has stopped reading.
            self._apply(self._protocol.leave)
        await self._wait_sealed(None)
        if self._closing is not None:
            await self._wait_ledger(self._closing)
        return self._sealed

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if error is not None and not isinstance(error, asyncio.CancelledError | GeneratorExit):
            self.terminate(Cause.CONSUMER_ERROR, describe(error))
        await self.aclose()

    def __del__(self) -> None:
        begun = getattr(self, "_open_written", False) or getattr(self, "_goes_on", False)
        if begun and self._sealed is None:
            warnings.warn(
                f"{self!r} was dropped without being closed; use `async with`, or read it to its end",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
            # The collector runs in any thread; the loop is told, and holds the session until it has ended.
            self._apply(self._abandon)

    # -- what the readers provide ----------------------------------------------------------------------

    def _launch(self) -> None:
        """Start what runs without a reader."""
        raise AssertionError("provided by StreamSession")

    def _stop_producer(self) -> None:
        """Tell the producer to end, after its transport was closed."""
        raise AssertionError("provided by StreamSession")

    def _wake_consumer(self) -> None:
        """Wake a parked reader."""

    def _wake_producer(self) -> None:
        """Wake a producer that waits for room."""

    def _given_up(self) -> None:
        """The close deadline passed."""

    def _leave(self, detail: str, now_ns: int) -> None:
        """The reader has left."""
        raise AssertionError("provided by StreamSession")

    # -- inside ----------------------------------------------------------------------------------------

    def _apply(self, step: Callable[[int], object]) -> None:
        """Do `step` with the instant, on the session's thread, and perform what it decided."""
        loop = self._loop
        if loop is None or threading.get_ident() == self._thread:
            step(self._clock.monotonic_ns())
            self._perform()
            return
        try:
            loop.call_soon_threadsafe(self._apply, step)
        except RuntimeError:
            # The loop is closed, so nobody else can touch this session any more.
            step(self._clock.monotonic_ns())
            self._perform()

    def _perform(self) -> None:
        if self._loop is not None and self._loop.is_closed():
            self._perform_without_loop()
        super()._perform()

    def _carry_out(self, action: Action) -> None:
        if action is CLOSE_PRODUCER:
            self._close_transports()
            self._stop_producer()
        elif action is WAKE_CONSUMER:
            self._notify_cutoff()
            self._wake_consumer()
        elif action is WAKE_PRODUCER:
            self._wake_producer()
        elif action is ARM:
            if self._protocol.until_ns is not None or self._protocol.live:
                self._arm()
        elif self._protocol.state is DRAINED:
            self._seal()

    def _perform_without_loop(self) -> None:
        """The loop is closed: nothing runs and nobody can wait, so what has not ended is unconfirmed."""
        protocol, now_ns = self._protocol, self._clock.monotonic_ns()
        if CLOSE_PRODUCER in protocol.pending:
            self._close_transports()
        if WAKE_CONSUMER in protocol.pending:
            self._notify_cutoff()
        protocol.leave(now_ns)
        protocol.give_up(now_ns)
        protocol.take_actions()
        self._waiters = None
        if protocol.state is DRAINED:
            self._seal()

    def _seal(self) -> None:
        self._build_receipt()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def _arm(self) -> None:
        """One timer for the earliest deadline; it is moved forward when it fires, not per chunk."""
        protocol = self._protocol
        if self._loop is None:
            return
        now_ns = self._clock.monotonic_ns()
        at_ns = next_look(self._protocol, now_ns)
        if at_ns is None:
            return
        # Bounded waits (grace, drain, close) must not depend on somebody holding the session.
        holds = protocol.until_ns is not None
        if self._timer is not None:
            if self._armed_ns <= at_ns and not holds:
                return
            self._timer.cancel()
        self._armed_ns = at_ns
        target: Callable[[], Any] = (lambda: self) if holds else weakref.ref(self)
        self._timer = self._loop.call_later(max(at_ns - now_ns, 0) / NANOSECONDS, _fire, target)

    def _on_timer(self) -> None:
        now_ns = self._clock.monotonic_ns()
        if 0 < self._armed_ns - now_ns < _TICK_NS:
            now_ns = self._armed_ns
        self._timer = None
        tick(self._protocol, now_ns)
        if self._protocol.producer is UNCONFIRMED:
            self._given_up()
        self._perform()
        if self._sealed is None:
            self._arm()

    def _check_loop(self) -> None:
        if threading.get_ident() == self._thread and running_task(self._loop) is not None:
            return  # The cheap test for what is nearly always so: a task of this loop runs in this thread.
        if _running_loop() is not self._loop:
            raise UsageError(
                f"session {self.stream_id} was started on another event loop; a session belongs to one loop,"
                " and only cancel(), terminate() and disconnected() may be called from elsewhere"
            )

    async def _wait_open(self) -> None:
        if self._opening is not None and not _succeeded(self._opening):
            try:
                await self._wait_ledger(self._opening)
            except LedgerError as error:
                self.terminate(Cause.INTERNAL_ERROR, "the OPEN record could not be written")
                raise error

    async def _wait_ledger(self, future: Future[None]) -> None:
        try:
            await asyncio.shield(asyncio.wrap_future(future))
        except LedgerError as error:
            raise LedgerError(str(error), self._sealed) from error
        except Exception as error:
            what = f"the ledger failed with {type(error).__name__}, not with a LedgerError"
            raise LedgerError(what, self._sealed) from error

    async def _wait_sealed(self, timeout: float | None) -> None:
        if self._sealed is not None:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters = [*(self._waiters or ()), waiter]
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(waiter, timeout)

    def _abandon(self, now_ns: int) -> None:
        """Dropped: nobody will read, nobody can be waited for; the receipt is written all the same (G11)."""
        protocol = self._protocol
        protocol.terminate(
            Cause.CONSUMER_ERROR, "the session was dropped without being closed", now_ns
        )
        protocol.leave(now_ns)
        self._perform()
        protocol.stop_draining(now_ns)
        self._perform()
        protocol.give_up(now_ns)


def _fire(target: Callable[[], Any]) -> None:
    session = target()
    if session is not None:
        session._on_timer()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _succeeded(future: Future[None]) -> bool:
    return future.done() and future.exception() is None
