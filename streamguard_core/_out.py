"""What a push producer emits through: takes chunks at the call, gives backpressure at the await."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Iterable
from threading import get_ident
from typing import Any, Final, cast

from streamguard_core._base import SessionBase
from streamguard_core._waiting import Waiting
from streamguard_core.accounting import Usage
from streamguard_core.chunks import AnyChunk, Chunk, buffer_size, size_of
from streamguard_core.dispatcher import Dispatcher
from streamguard_core.errors import CutOffError, UsageError
from streamguard_core.producers import Out
from streamguard_core.protocol import ACCEPTED, FULL, REFUSED, Offer
from streamguard_core.receipt import Attempt
from streamguard_core.transitions import AWAY, DRAINING, RUNNING, STREAMING

_CHUNKS: Final = (str, bytes, Chunk)

LIGHT: Final = 256
"""Characters up to which a chunk is light; each is taken for four bytes where bytes are not counted."""


class SessionOut:
    """What is behind the `Out` of one session.

    Invariant: a chunk is accepted, refused and counted, or waits; it is never lost.

    Args:
        dispatcher: where chunks go.
        session: a weak reference to the session, for everything that is not a chunk.
        loop: the session's loop; calls from other threads are handed over to it.
        now: the session's clock, in nanoseconds.
        timed: whether instants of content are needed for a deadline.
        gated: whether gates look ahead.
        foreign: whether objects that are no chunks are passed on, as an SDK's iterator yields them.
    """

    __slots__ = (
        "_dispatcher",
        "_gated",
        "_now",
        "_protocol",
        "_ready",
        "_session",
        "_size",
        "_thread",
        "_timed",
        "consumer",
        "emitter_due",
        "lease",
        "loop",
        "putters",
        "reader_due",
        "told",
        "unawaited",
        "waiting",
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
        foreign: bool = False,
    ) -> None:
        self._dispatcher = dispatcher
        self._protocol = dispatcher.protocol
        self._session = session
        self.loop = loop
        self._now = now
        self._thread = get_ident()
        self._timed = timed
        self._gated = gated
        self._size: Callable[[Any], int] = buffer_size if foreign else _checked_size
        # A future that is done: the cheapest thing to await.
        self._ready: asyncio.Future[None] = loop.create_future()
        self._ready.set_result(None)
        self.putters: list[Waiting] = []
        """The chunks whose emitters wait to be told of room, in their order."""
        self.lease = 0
        """How many chunks may have been produced before the protocol must be asked again; see `grant()`."""
        self.waiting = 0
        """How many chunks wait in all: also those told, not run yet, and those not awaited yet."""
        self.consumer: asyncio.Future[None] | None = None
        """What a parked consumer waits for."""
        self.reader_due = self.emitter_due = False
        """Hints: it was woken and runs in this turn of the loop, so a future is not needed to wait for it."""
        self.told = False
        """True once an emitter was told of the cutoff, by an exception it is unwinding from."""
        self.unawaited: Waiting | None = None
        """A chunk that waits for room and whose emitter has not awaited yet."""

    def function(self) -> Out:
        """What producers call: a plain function, because calling an object costs twice as much per chunk."""
        out = self._judging() if self._gated else self._relaying()
        for name in ("connected", "finish", "identify", "attempt", "on_close", "wanted"):
            setattr(out, name, getattr(self, name))
        return cast("Out", out)

    def _relaying(self) -> Callable[[AnyChunk], Awaitable[None]]:
        """For streams without gates: within the lease, `StreamProtocol.relay` in place.

        It closes over three names only: every cell is one more object of each open stream.
        """
        protocol, append = self._protocol, self._dispatcher.queue.append

        def out(token: AnyChunk) -> Awaitable[None]:
            """Hand one chunk over. Await the result: it returns when there is room again.

            Raises:
                CutOffError: after the cutoff; the chunk was refused and counted as late.
                UsageError: when `token` is no chunk.
            """
            if token.__class__ is str and get_ident() == self._thread:
                produced = protocol.produced
                if produced < self.lease and len(token) <= LIGHT:
                    if produced - protocol.consumed < protocol.max_inflight:
                        protocol.produced = protocol.cleared = protocol.committed = produced + 1
                    else:
                        protocol.produced = protocol.cleared = produced + 1
                    append(token)
                    if self._timed and token:
                        protocol.content(self._now())
                    if self.consumer is not None:
                        self.wake_consumer()
                    return self._ready
            return self._emit_any(token)

        return out

    def _judging(self) -> Callable[[AnyChunk], Awaitable[None]]:
        """For streams with gates."""
        protocol, dispatcher = self._protocol, self._dispatcher

        def out(token: AnyChunk) -> Awaitable[None]:
            """See `_relaying`."""
            if token.__class__ is str and get_ident() == self._thread:
                produced = protocol.produced
                if (
                    produced < self.lease
                    and len(token) <= LIGHT
                    and produced - protocol.committed < protocol.max_speculative
                ):
                    now_ns = self._now()
                    if self._timed and token:
                        protocol.content(now_ns)
                    dispatcher.pass_on(token, now_ns)
                    if dispatcher.queue and self.consumer is not None:
                        self.wake_consumer()
                    if protocol.pending or protocol.state is not STREAMING:
                        self._decided()
                    return self._ready
            return self._emit_any(token)

        return out

    def grant(self) -> None:
        """Lease: up to which produced chunk a light one may be relayed without asking the protocol.

        It rests on the counters as they are now, and on the weight that `offer()` has just taken; the consumer
        can only better both. Whatever else makes it wrong (a decision, somebody who waits) takes it back.
        """
        protocol = self._protocol
        self.lease = 0
        if (
            protocol.state is STREAMING
            and protocol.producer is RUNNING
            and protocol.max_away_produced is None
            and not self.waiting
        ):
            light = (protocol.max_bytes - protocol.buffered_bytes) // (4 * LIGHT)
            self.lease = protocol.produced + light
            if not self._gated:
                self.lease = min(self.lease, protocol.consumed + protocol.max_buffered)

    def _emit_any(self, token: AnyChunk) -> Awaitable[None]:
        """Whatever is not the plain case."""
        if get_ident() != self._thread:
            return self._from_thread(token)
        return self._emit(token, self._size(token))

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

    def wanted(self) -> bool:
        """Whether somebody reads, or may still come; see the session's."""
        return self._protocol.live and self._protocol.consumer is not AWAY

    def wake_consumer(self) -> None:
        """There is something to read, or EOS."""
        consumer, self.consumer = self.consumer, None
        if consumer is not None and not consumer.done():
            consumer.set_result(None)
            self.reader_due = True

    def wake_producer(self) -> None:
        """There is room again, or the cutoff."""
        while self.putters:
            if self.putters.pop(0).tell():
                self.emitter_due = True
                return

    def wake_producers(self) -> None:
        """The cutoff: whoever waits for room is told, and a chunk that nobody awaits is late."""
        if self.unawaited is not None:
            self.settle(self.unawaited)
            self.unawaited = None
        while self.putters:
            self.wake_producer()

    def freed(self) -> None:
        """The consumer made room."""
        if self.putters:
            if self._timed:
                self._protocol.producer_since_ns = self._now()
            if self._gated:
                self._dispatcher.check_stuck(self._now())
            self.wake_producer()
            if self._protocol.pending:
                self._perform()

    def returned(self) -> None:
        """The producer returned: a chunk that still waits was emitted by somebody who never awaited."""
        if self.unawaited is not None:
            self._overrun(self.unawaited)

    def _emit(self, chunk: AnyChunk, size: int) -> Awaitable[None]:
        if self.unawaited is not None:
            self._overrun(self.unawaited)
        if self.putters or self.is_full() or self.offer(chunk, size) is FULL:
            self.lease = 0
            self.waiting += 1
            self.unawaited = Waiting(self, chunk, size)
            return self.unawaited
        self.grant()
        return self._ready

    def is_full(self) -> bool:
        """True when offering a chunk would change nothing but ask again; False when in doubt."""
        protocol = self._protocol
        return (
            protocol.state is STREAMING
            and protocol.producer is RUNNING
            and protocol.max_away_produced is None
            and not self._gated
            and protocol.produced - protocol.committed >= protocol.max_speculative
        )

    def offer(self, chunk: AnyChunk, size: int) -> Offer:
        """Offer one chunk to the dispatcher, and carry out what that decided.

        Raises:
            CutOffError: when the chunk was refused, or a gate cut the stream off because of it.
        """
        protocol = self._protocol
        self._dispatcher.weigh(size)
        if not self._gated and protocol.relay(size):
            self._relayed(chunk)
            return ACCEPTED
        now_ns = self._now()
        answer = self._dispatcher.offer(chunk, size, now_ns)
        if answer is ACCEPTED and size:
            protocol.content(now_ns)
        if self._dispatcher.queue:
            self.wake_consumer()
        if protocol.pending or answer is REFUSED or not protocol.live:
            self._decided()
        return answer

    def _decided(self) -> None:
        """Something was decided about the stream when a chunk was offered."""
        if self._protocol.pending:
            self._perform()
        # Refused, or accepted and then cut off by a gate: the emitter must not go on.
        self.refuse_emitter()

    def _relayed(self, chunk: AnyChunk) -> None:
        """What is left to do for a chunk about which nothing had to be decided."""
        self._dispatcher.queue.append(chunk)
        if self._timed and chunk:
            self._protocol.content(self._now())
        if self.consumer is not None:
            self.wake_consumer()

    def _perform(self) -> None:
        if (session := self._session()) is not None:
            session._perform()

    def settle(self, waiting: Waiting) -> None:
        """A chunk that was emitted and not accepted by the cutoff was generated all the same: it is late."""
        if not waiting.settled and not self._protocol.live:
            waiting.settled = True
            self.refuse(waiting.size)

    def refuse_rest(self, rest: Iterable[AnyChunk]) -> None:
        """After the cutoff: count what a producer had in hand and did not come to emit."""
        if not self._protocol.live:
            for chunk in rest:
                self.refuse(self._size(chunk))

    def refuse(self, size: int) -> None:
        """Count a chunk of `size` bytes that came too late."""
        self._protocol.offer(size, self._now())

    def refuse_emitter(self) -> None:
        """After the cutoff, or its own end, an emitter must not go on; under a drain it is read on.

        Raises:
            CutOffError: when it must not.
        """
        protocol = self._protocol
        if protocol.producer is DRAINING or (protocol.live and protocol.producer is RUNNING):
            return
        self.told = True
        raise CutOffError(
            "out() was called after the cutoff; return from run() once cancel_event is set"
        )

    def _overrun(self, waiting: Waiting) -> None:
        """Somebody emitted again without awaiting: the waiting chunk is late, and the stream is cut off."""
        waiting.settled = True
        self.unawaited = None
        self._protocol.overrun("the producer emitted without awaiting out()", self._now())
        self._perform()

    def mark_blocked(self) -> None:
        """While the producer waits for room it owes nothing: its silence is not idleness (G14)."""
        self._protocol.producer_since_ns = None

    def _from_thread(self, chunk: AnyChunk) -> Awaitable[None]:
        """From a foreign thread there is nothing to await: the loop takes the chunk if there is room."""
        self.loop.call_soon_threadsafe(self._take_foreign, chunk, self._size(chunk))
        return self._ready

    def _take_foreign(self, chunk: AnyChunk, size: int) -> None:
        try:
            if self.unawaited is not None:
                # It would overtake the chunk that waits.
                self._overrun(self.unawaited)
            if self.offer(chunk, size) is FULL:
                self._protocol.overrun(
                    "the producer emitted from a thread, and there was no room", self._now()
                )
                self._perform()
        except CutOffError:
            pass  # It was counted as late; there is nobody to tell.


def _checked_size(chunk: object) -> int:
    if isinstance(chunk, _CHUNKS):
        return size_of(chunk)
    raise UsageError(
        f"a {type(chunk).__name__} was emitted; a chunk is a str, a streamguard_core.Chunk or bytes"
    )
