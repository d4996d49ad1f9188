"""Runs a blocking iterator in a thread of its own and hands its chunks to the loop, a few at a time."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from streamguard_core._out import SessionOut
from streamguard_core._pump import Opened, Unread
from streamguard_core.chunks import AnyChunk
from streamguard_core.errors import CutOffError, UsageError


class ThreadPump:
    """A producer that blocks. Chunks in transit between thread and loop are bounded by `transit_limit`.

    A thread cannot be interrupted: after `stop()` it ends at its next chunk, or at once where closing the
    provider's transport (`Report.on_close`) makes its blocked read fail. The iterator is closed in its own
    thread, never from another one.
    """

    __slots__ = (
        "_blocked",
        "_broke",
        "_closing",
        "_emit",
        "_ended",
        "_loop",
        "_out",
        "_permits",
        "_starting",
        "_stopped",
        "_transit",
        "_unread",
        "_waking",
    )

    def __init__(
        self,
        out: SessionOut,
        ended: Callable[[BaseException | None], None],
        broke: Callable[[Exception], None],
        transit_limit: int,
    ) -> None:
        self._out = out
        self._emit = out.function()
        self._ended = ended
        self._broke = broke
        self._loop = asyncio.get_running_loop()
        self._permits = threading.Semaphore(transit_limit)
        self._transit: deque[AnyChunk] = deque()
        self._stopped = False
        self._waking = False
        """A delivery is on its way to the loop; the thread need not ask for another."""
        self._blocked: asyncio.Task[None] | None = None
        """Waits for room with the oldest chunk in transit; nothing may overtake it."""
        self._starting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    def start(self, iterable: Any, opened: Opened | None) -> None:
        """Begin to produce, once the OPEN record is durable."""
        self._unread = Unread(iterable)
        self._starting = self._loop.create_task(self._begin(iterable, opened))

    def stop(self) -> None:
        """Tell the thread to end; what is in transit is late."""
        self._stopped = True
        self._permits.release()
        if self._starting is not None:
            # The thread was never started: nothing was called, but something may have been opened.
            self._starting.cancel()
            self._starting = None
            self._closing = self._loop.create_task(self._close_unread())

    async def _begin(self, iterable: Any, opened: Opened | None) -> None:
        if opened is not None:
            try:
                await opened()
            except Exception as error:
                self._starting = None
                self._ended(error)
                return
        self._starting = None
        context = contextvars.copy_context()
        threading.Thread(
            target=context.run,
            args=(self._produce, iterable),
            name="streamguard-producer",
            daemon=True,
        ).start()

    async def _close_unread(self) -> None:
        error: BaseException | None = None
        try:
            await self._unread.aclose()
        except BaseException as raised:
            error = raised
        self._ended(error)

    def _produce(self, iterable: Any) -> None:
        """The thread: ask for room, ask the iterator, hand over."""
        error: BaseException | None = None
        iterator: Any = None
        try:
            iterator = iter(iterable)
            self._iterate(iterator)
        except BaseException as raised:
            error = raised
        try:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        except BaseException as raised:
            error = error or raised
        self._call_loop(self._finish, error)

    def _iterate(self, iterator: Any) -> None:
        self._permits.acquire()
        while not self._stopped:
            try:
                chunk = next(iterator)
            except StopIteration:
                return
            self._transit.append(chunk)
            if not self._waking:
                self._waking = True
                self._call_loop(self._deliver, None)
            self._permits.acquire()

    def _call_loop(self, callback: Callable[[Any], None], argument: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, argument)
        except RuntimeError:
            # The loop is closed: the session was abandoned and says so in its receipt.
            self._stopped = True

    def _deliver(self, _: object) -> None:
        """On the loop: emit what came, as far as there is room."""
        if self._blocked is not None:
            return
        self._waking = False
        while self._transit:
            try:
                self._emit(self._transit.popleft())
            except CutOffError:
                pass  # Counted as late.
            except UsageError as error:
                self._broke(error)
            waiting = self._out.unawaited
            if waiting is not None:
                self._blocked = self._loop.create_task(self._wait(waiting))
                return
            self._permits.release()

    async def _wait(self, waiting: Awaitable[None]) -> None:
        """There was no room for one chunk: hand it over when there is, then go on."""
        try:
            await waiting
        except CutOffError:
            pass  # Counted as late; the thread learns of the cutoff by `stop()`.
        self._blocked = None
        self._permits.release()
        self._deliver(None)

    def _finish(self, error: BaseException | None) -> None:
        """On the loop, after the thread's last delivery: end when nothing is in transit any more."""
        self._deliver(None)
        if self._blocked is not None:
            self._blocked.add_done_callback(lambda _: self._finish(error))
        else:
            self._ended(error)
