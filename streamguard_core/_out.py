"""What a push producer emits through: takes chunks at the call, gives backpressure at the await."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from typing import Any, cast

from streamguard_core._base import SessionBase
from streamguard_core.accounting import Usage
from streamguard_core.chunks import AnyChunk, Chunk, size_of
from streamguard_core.dispatcher import Dispatcher
from streamguard_core.errors import CutOffError, UsageError
from streamguard_core.producers import Out
from streamguard_core.protocol import ACCEPTED, FULL, REFUSED, Offer
from streamguard_core.receipt import Attempt
from streamguard_core.transitions import DRAINING, RUNNING, STREAMING

_get_ident = threading.get_ident


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
    """What is behind the `Out` of one session. Invariant: a chunk is accepted, refused and counted, or waits; never lost.

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
        "_queue",
        "_ready",
        "_session",
        "_thread",
        "_timed",
        "consumer",
        "putters",
        "told",
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
        # A future that is done: the cheapest thing to await.
        self._ready: asyncio.Future[None] = loop.create_future()
        self._ready.set_result(None)
        self._queue = dispatcher.queue
        self.putters: deque[asyncio.Future[None]] = deque()
        """What producers wait for while there is no room, in their order."""
        self.consumer: asyncio.Future[None] | None = None
        """What a parked consumer waits for."""
        self.told = False
        """True once an emitter was told of the cutoff, by an exception it is unwinding from."""
        self.unawaited: _Waiting | None = None
        """A chunk that waits for room and whose emitter has not awaited yet."""

    def function(self) -> Out:
        """What producers call: a plain function, because calling an object costs twice as much per chunk."""
        emit, protocol, queue, plain = self._emit_any, self._protocol, self._queue, self._plain
        putters, ready, thread, max_buffered = (
            self.putters,
            self._ready,
            self._thread,
            protocol.max_buffered,
        )

        def out(token: AnyChunk) -> Awaitable[None]:
            """Hand one chunk over. Await the result: it returns when there is room again.

            Raises:
                CutOffError: after the cutoff; the chunk was refused and counted as late.
                UsageError: when `token` is no chunk.
            """
            if token.__class__ is str and plain and token.isascii() and _get_ident() == thread:
                # `StreamProtocol.relay` in place, for the one kind of chunk that is nearly all of them.
                size = len(token)
                produced, consumed = protocol.produced, protocol.consumed
                if (
                    produced - consumed < max_buffered
                    and protocol.state is STREAMING
                    and protocol.producer is RUNNING
                    and protocol.buffered_bytes + size <= protocol.max_bytes
                    and protocol.max_away_produced is None
                    and not putters
                ):
                    protocol.produced = protocol.cleared = produced + 1
                    if protocol.committed - consumed < protocol.max_inflight:
                        protocol.committed += 1
                    protocol.buffered_bytes += size
                    queue.append(token)
                    if self.consumer is not None:
                        self.wake_consumer()
                    return ready
            return emit(token)

        for name in ("connected", "finish", "identify", "attempt", "on_close"):
            setattr(out, name, getattr(self, name))
        return cast("Out", out)

    def _emit_any(self, token: AnyChunk) -> Awaitable[None]:
        """Whatever is not the plain case."""
        if _get_ident() != self._thread:
            return self._from_thread(token)
        return self._emit(token, _checked_size(token))

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

    async def wait_for_room(self, chunk: AnyChunk, size: int) -> None:
        """Offer `chunk` until it is taken; first come, first served."""
        while self._offer(chunk, size) is FULL:
            room = self._loop.create_future()
            self.putters.append(room)
            self._mark_blocked()
            try:
                await room
            except BaseException:
                # Whoever was told there is room and does not use it must tell the next.
                if room.done() and not room.cancelled():
                    self.wake_producer()
                raise
            finally:
                if room in self.putters:
                    self.putters.remove(room)
        self.wake_producer()

    def wake_consumer(self) -> None:
        """There is something to read, or EOS."""
        consumer, self.consumer = self.consumer, None
        if consumer is not None and not consumer.done():
            consumer.set_result(None)

    def wake_producer(self) -> None:
        """There is room again, or the cutoff."""
        while self.putters:
            room = self.putters.popleft()
            if not room.done():
                room.set_result(None)
                return

    def wake_producers(self) -> None:
        """The cutoff: whoever waits for room is told."""
        while self.putters:
            self.wake_producer()

    def freed(self) -> None:
        """The consumer made room."""
        if self.putters:
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
        elif self.putters:
            self.unawaited = _Waiting(self, chunk, size)
            return self.unawaited
        if self._offer(chunk, size) is FULL:
            self.unawaited = _Waiting(self, chunk, size)
            return self.unawaited
        return self._ready

    def _offer(self, chunk: AnyChunk, size: int) -> Offer:
        protocol = self._protocol
        now_ns = self._now()
        answer = self._dispatcher.offer(chunk, size, now_ns)
        if answer is ACCEPTED and size:
            protocol.content(now_ns)
        if self._dispatcher.queue:
            self.wake_consumer()
        if protocol.pending:
            self._perform()
        if answer is REFUSED or (answer is ACCEPTED and not protocol.live):
            # Refused, or accepted and then cut off by a gate: the emitter must not go on.
            self._refuse_emitter()
        return answer

    def _perform(self) -> None:
        if (session := self._session()) is not None:
            session._perform()

    def _refuse_emitter(self) -> None:
        if self._protocol.producer is DRAINING:
            return
        self.told = True
        raise CutOffError(
            "out() was called after the cutoff; return from run() once cancel_event is set"
        )

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
        return self._ready

    def _take_foreign(self, chunk: AnyChunk, size: int) -> None:
        try:
            if self._offer(chunk, size) is FULL:
                self._protocol.overrun(
                    "the producer emitted from a thread, and there was no room", self._now()
                )
                self._perform()
        except CutOffError:
            pass  # It was counted as late; there is nobody to tell.


def _checked_size(chunk: object) -> int:
    if isinstance(chunk, str | bytes | Chunk):
        return size_of(chunk)
    raise UsageError(
        f"a {type(chunk).__name__} was emitted; a chunk is a str, a streamguard_core.Chunk or bytes"
    )
