"""What a push producer emits through: takes chunks at the call, gives backpressure at the await."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final

from streamguard_core._base import SessionBase
from streamguard_core.accounting import Usage
from streamguard_core.chunks import AnyChunk, Chunk, size_of
from streamguard_core.dispatcher import Dispatcher
from streamguard_core.errors import CutOffError, UsageError
from streamguard_core.protocol import Offer
from streamguard_core.receipt import Attempt
from streamguard_core.transitions import ProducerState


class _Ready:
    """Awaits nothing: there was room."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return _NOTHING  # type: ignore[return-value]


# An exhausted tuple iterator: an await on it costs no generator and can be shared by all.
_NOTHING: Final = iter(())
_READY: Final = _Ready()


class _Waiting:
    """A chunk for which there was no room; awaiting it hands the chunk over once there is."""

    __slots__ = ("_out", "chunk", "size")

    def __init__(self, out: SessionOut, chunk: AnyChunk, size: int) -> None:
        self._out = out
        self.chunk = chunk
        self.size = size

    def __await__(self) -> Generator[Any, None, None]:
        if self._out.unawaited is self:
            self._out.unawaited = None
        return self._out.wait_for_room(self.chunk, self.size).__await__()


class SessionOut:
    """The `Out` of one session. Invariant: a chunk is accepted, refused and counted, or waits; never lost.

    Args:
        dispatcher: where chunks go.
        session: a weak reference to the session, for everything that is not a chunk.
        loop: the session's loop; calls from other threads are handed over to it.
        now: the session's clock, in nanoseconds.
        timed: whether instants of content are needed for a deadline.
        gated: whether gates look ahead.
    """

    __slots__ = (
        "_dispatcher",
        "_loop",
        "_now",
        "_plain",
        "_protocol",
        "_putters",
        "_session",
        "_thread",
        "_timed",
        "consumer",
        "unawaited",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        session: weakref.ref[SessionBase],
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], int],
        *,
        timed: bool,
        gated: bool,
    ) -> None:
        self._dispatcher = dispatcher
        self._protocol = dispatcher.protocol
        self._session = session
        self._loop = loop
        self._now = now
        self._thread = threading.get_ident()
        self._timed = timed
        self._plain = not timed and not gated
        self._putters: deque[asyncio.Future[None]] = deque()
        self.consumer: asyncio.Future[None] | None = None
        """What a parked consumer waits for."""
        self.unawaited: _Waiting | None = None
        """A chunk that waits for room and whose emitter has not awaited yet."""

    def __call__(self, token: AnyChunk) -> Awaitable[None]:
        """Hand one chunk over. Await the result: it returns when there is room again.

        Raises:
            CutOffError: after the cutoff; the chunk was refused and counted as late.
            UsageError: when `token` is no chunk.
        """
        if threading.get_ident() != self._thread:
            return self._from_thread(token)
        if token.__class__ is str and token.isascii():
            size = len(token)
        else:
            size = _checked_size(token)
        if self._plain and not self._putters and self._protocol.relay(size):
            self._dispatcher.queue.append(token)
            if self.consumer is not None:
                self.wake_consumer()
            return _READY
        return self._emit(token, size)

    def connected(self) -> None:
        """See `Report`."""
        if (session := self._session()) is not None:
            session.connected()

    def finish(self, reason: str | None = None, usage: Usage | None = None) -> None:
        """See `Report`."""
        if (session := self._session()) is not None:
            session.finish(reason, usage)

    def identify(self, *, model: str | None = None, request_id: str | None = None) -> None:
        """See `Report`."""
        if (session := self._session()) is not None:
            session.identify(model=model, request_id=request_id)

    def attempt(self, attempt: Attempt) -> None:
        """See `Report`."""
        if (session := self._session()) is not None:
            session.attempt(attempt)

    def on_close(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `Report`; the transport of a session that is gone is closed at once."""
        session = self._session()
        if session is None:
            callback()
            return lambda: None
        return session.on_close(callback)

    @property
    def waiting(self) -> bool:
        """True while somebody waits for room."""
        return bool(self._putters)

    async def wait_for_room(self, chunk: AnyChunk, size: int) -> None:
        """Offer `chunk` until it is taken; first come, first served."""
        while self._offer(chunk, size) is Offer.FULL:
            room = self._loop.create_future()
            self._putters.append(room)
            self._mark_blocked()
            try:
                await room
            except BaseException:
                # Whoever was told there is room and does not use it must tell the next.
                if room.done() and not room.cancelled():
                    self.wake_producer()
                raise
            finally:
                if room in self._putters:
                    self._putters.remove(room)
        self.wake_producer()

    def wake_consumer(self) -> None:
        """There is something to read, or EOS."""
        consumer, self.consumer = self.consumer, None
        if consumer is not None and not consumer.done():
            consumer.set_result(None)

    def wake_producer(self) -> None:
        """There is room again, or the cutoff."""
        while self._putters:
            room = self._putters.popleft()
            if not room.done():
                room.set_result(None)
                return

    def wake_producers(self) -> None:
        """The cutoff: whoever waits for room is told."""
        while self._putters:
            self.wake_producer()

    def freed(self) -> None:
        """The consumer made room."""
        if self._putters:
            self._protocol.producer_since_ns = self._now()
            self._dispatcher.check_stuck(self._protocol.producer_since_ns)
            self.wake_producer()
            self._perform()

    def returned(self) -> None:
        """The producer returned: a chunk that still waits was emitted by somebody who never awaited."""
        if self.unawaited is not None:
            self._overrun()

    def _emit(self, chunk: AnyChunk, size: int) -> Awaitable[None]:
        if self.unawaited is not None:
            self._overrun()
        elif self._putters:
            self.unawaited = _Waiting(self, chunk, size)
            return self.unawaited
        if self._offer(chunk, size) is Offer.FULL:
            self.unawaited = _Waiting(self, chunk, size)
            return self.unawaited
        return _READY

    def _offer(self, chunk: AnyChunk, size: int) -> Offer:
        protocol = self._protocol
        now_ns = self._now()
        answer = self._dispatcher.offer(chunk, size, now_ns)
        if answer is Offer.ACCEPTED and size:
            protocol.content(now_ns)
        if self._dispatcher.queue:
            self.wake_consumer()
        if protocol.pending:
            self._perform()
        if answer is Offer.REFUSED and protocol.producer is not ProducerState.DRAINING:
            raise CutOffError("out() was called after the cutoff; return from run() once cancel_event is set")
        return answer

    def _perform(self) -> None:
        if (session := self._session()) is not None:
            session._perform()

    def _overrun(self) -> None:
        """Somebody emitted again without awaiting: the waiting chunk is late, and the stream is cut off."""
        self.unawaited = None
        self._protocol.overrun("the producer emitted without awaiting out()", self._now())
        self._perform()

    def _mark_blocked(self) -> None:
        """While the producer waits for room it owes nothing: its silence is not idleness (G14)."""
        self._protocol.producer_since_ns = None

    def _from_thread(self, chunk: AnyChunk) -> Awaitable[None]:
        """From a foreign thread there is nothing to await: the loop takes the chunk if there is room."""
        self._loop.call_soon_threadsafe(self._take_foreign, chunk, _checked_size(chunk))
        return _READY

    def _take_foreign(self, chunk: AnyChunk, size: int) -> None:
        try:
            if self._offer(chunk, size) is Offer.FULL:
                self._protocol.overrun("the producer emitted from a thread, and there was no room", self._now())
                self._perform()
        except CutOffError:
            pass  # It was counted as late; there is nobody to tell.


def _checked_size(chunk: object) -> int:
    if isinstance(chunk, str | bytes | Chunk):
        return size_of(chunk)
    raise UsageError(
        f"a {type(chunk).__name__} was emitted; a chunk is a str, a streamguard_core.Chunk or bytes"
    )
