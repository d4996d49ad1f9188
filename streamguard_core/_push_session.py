"""Reads a stream through the speculative buffer: for push producers, gates, grace, drain and threads."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Awaitable
from functools import partial
from itertools import islice
from typing import Any

from streamguard_core._base import SessionBase
from streamguard_core._batch_session import BatchSession
from streamguard_core._failures import describe
from streamguard_core._out import SessionOut
from streamguard_core._pump import Pump
from streamguard_core._thread_pump import ThreadPump
from streamguard_core._waiting import turn
from streamguard_core.causes import Cause
from streamguard_core.chunks import AnyChunk
from streamguard_core.dispatcher import Dispatcher
from streamguard_core.errors import UsageError
from streamguard_core.producers import Drive
from streamguard_core.running import running_task
from streamguard_core.statistics import Statistics
from streamguard_core.transitions import DRAINED, READING, RUNNING, STREAMING


class PushSession(BatchSession):
    """The push path: a pump runs the producer, the dispatcher moves chunks, the reader waits on one future."""

    __slots__ = ("_dispatcher", "_handed", "_out", "_place", "_pump", "_turning")

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._dispatcher: Dispatcher | None = None
        self._out: SessionOut | None = None
        self._pump: Pump | ThreadPump | None = None
        self._place: object | None = None
        """Identifies the reader; a new one takes the place of one that is not waiting."""
        self._handed = 0
        """How many chunks `read_ready()` handed over last; consumed when it is called again."""
        self._turning = False
        """The reader lets the loop turn once, instead of waiting on a future."""

    def _start_pump(self, *, foreign: bool = False) -> None:
        """Start the producer in its own task or thread; `foreign`: also pass on what is no chunk."""
        assert self._loop is not None
        self._dispatcher = Dispatcher(self._protocol, self._gates)
        session: weakref.ref[SessionBase] = weakref.ref(self)
        # The pump and `out` know the session weakly: a session that is dropped must be finalised at once.
        self._out = SessionOut(
            self._dispatcher,
            session,
            self._loop,
            self._clock.monotonic_ns,
            timed=self._protocol.timed,
            gated=bool(self._gates),
            foreign=foreign,
        )

        ended = partial(_pump_ended, session)
        opened = self._wait_open if self._opening is not None else None
        if self._drive is Drive.SYNC:
            broke = partial(_pump_broke, session)
            thread = ThreadPump(self._out, ended, broke, self._protocol.max_speculative)
            self._pump = thread
            thread.start(self._producer, opened)
        else:
            assert self._drive is not None
            self._pump = pump = Pump(self._out, ended)
            pump.start(self._drive, self._producer, opened)

    def _pump_ended(self, error: BaseException | None) -> None:
        """The producer ended: what gates still hold is decided first, then the end."""
        if isinstance(error, asyncio.CancelledError) and self._pump_was_cancelled():
            self.terminate(
                Cause.SHUTDOWN, "the producer's task was cancelled, as by a loop that ends"
            )
        if error is None and self._dispatcher is not None and self._protocol.live:
            self._dispatcher.finished(self._clock.monotonic_ns())
        self._producer_ended(error)
        assert self._out is not None
        self._out.wake_consumer()

    def _pump_was_cancelled(self) -> bool:
        """True when somebody else than this session cancelled the producer's task."""
        task = self._pump.task if isinstance(self._pump, Pump) else None
        return self._protocol.live and task is not None and task.cancelling() > 0

    # -- async for -------------------------------------------------------------------------------------

    async def _iterate_push(self) -> AsyncGenerator[AnyChunk, None]:  # noqa: C901 - one frame on purpose
        place = self._take_place()
        protocol, dispatcher, out = self._protocol, self._dispatcher, self._out
        timed, now, gated = protocol.timed, self._clock.monotonic_ns, bool(self._gates)
        assert dispatcher is not None
        assert out is not None
        queue, held, putters = dispatcher.queue, dispatcher.held, out.putters
        take = queue.popleft
        try:
            while True:
                while queue:
                    if timed:
                        protocol.consumer_since_ns = now()
                    yield queue[0]
                    # Asking for more says that the transport took this one over.
                    if self._place is not place:
                        raise self._superseded()
                    take()
                    if timed:
                        protocol.consumer_since_ns = None
                    # `StreamProtocol.release` in place; where there is more to decide, it is asked.
                    protocol.consumed += 1
                    if protocol.committed < protocol.cleared:
                        if protocol.state is not STREAMING or protocol.producer is not RUNNING:
                            self._commit_next()
                        else:
                            protocol.committed += 1
                            if gated:
                                queue.append(held.pop(0))
                    if putters:
                        out.freed()
                if not protocol.live:
                    break
                try:
                    await self._park_push()
                finally:
                    self._runs_again(place)
                if self._place is not place:
                    raise self._superseded()
            self._hand_eos()
        except GeneratorExit:
            if self._place is place:
                self._push_reader_left("the reader closed its iterator")
        except asyncio.CancelledError:
            if self._place is place:
                self._push_reader_left("the reader's task was cancelled")
            raise

    def _park_push(self) -> Awaitable[None]:
        """What a reader awaits for a chunk or the cutoff: one future, which both wake in the same step (G7).

        An emitter that was just woken runs in this turn of the loop: then the turn is all that is waited for.
        The reader says `_runs_again()` when it does. No coroutine: one per chunk is what a ticking stream would
        pay for.
        """
        out, loop = self._out, self._loop
        assert out is not None
        assert loop is not None
        self._interrupt.task = running_task(loop)
        if out.emitter_due:
            out.emitter_due, out.reader_due, self._turning = False, True, True
            return turn()
        out.consumer = consumer = loop.create_future()
        return consumer

    def _runs_again(self, place: object) -> None:
        """A parked reader was woken; the hints that it was due are over. A superseded one says nothing of the new."""
        assert self._out is not None
        self._out.reader_due = False
        if self._place is place:
            self._turning = False

    def _commit_next(self) -> None:
        assert self._dispatcher is not None
        self._dispatcher.advance(self._clock.monotonic_ns())
        if self._protocol.pending:
            self._perform()

    def _take_place(self) -> object:
        """Become the reader; one that is not waiting at this moment is superseded (it left, or is told so)."""
        self.start()
        out = self._out
        parked = out is not None and out.consumer is not None and not out.consumer.done()
        if parked or self._turning:
            raise UsageError(
                f"session {self.stream_id} is being read; a stream has one reader at a time"
            )
        self._place = object()
        self._interrupt.task = running_task(self._loop)
        if self._protocol.consumer is not READING:
            self._protocol.reading()
        return self._place

    def _superseded(self) -> UsageError:
        return UsageError(
            f"session {self.stream_id} was read by somebody else meanwhile; a stream has one reader"
        )

    def _push_reader_left(self, detail: str) -> None:
        """What was handed over and not taken stays committed: a reader that comes back gets it again."""
        self._place, self._handed = None, 0
        self._apply(lambda now_ns: self._intend(detail, now_ns))

    def _hand_eos(self) -> None:
        self._protocol.take_eos(self._clock.monotonic_ns())
        self._perform()

    # -- read_ready ------------------------------------------------------------------------------------

    async def _read_ready_push(self, limit: int) -> list[AnyChunk]:
        """Everything committed and ready, at least one chunk; empty at EOS."""
        return await self._next_batch(self._take_place(), limit)

    async def _iterate_push_batches(self, limit: int) -> AsyncGenerator[list[AnyChunk], None]:
        place = self._take_place()
        try:
            while batch := await self._next_batch(place, limit):
                yield batch
                if self._place is not place:
                    raise self._superseded()
        except GeneratorExit:
            if self._place is place:
                self._push_reader_left("the reader closed its iterator")

    async def _next_batch(self, place: object, limit: int) -> list[AnyChunk]:
        protocol, dispatcher = self._protocol, self._dispatcher
        assert dispatcher is not None
        queue = dispatcher.queue
        if self._handed:
            self._acknowledge(dispatcher)
        try:
            while not queue and protocol.live:
                try:
                    await self._park_push()
                finally:
                    self._runs_again(place)
                if self._place is not place:
                    raise self._superseded()
        except asyncio.CancelledError:
            if self._place is place:
                self._push_reader_left("the reader's task was cancelled")
            raise
        batch = list(islice(queue, min(limit, protocol.committed - protocol.consumed)))
        self._handed = len(batch)
        if not batch:
            self._hand_eos()
        elif protocol.timed:
            protocol.consumer_since_ns = self._clock.monotonic_ns()
        return batch

    def _acknowledge(self, dispatcher: Dispatcher) -> None:
        """The reader came back: what it was handed is consumed, and there is room."""
        handed, self._handed = self._handed, 0
        self._protocol.consumer_since_ns = None
        dispatcher.took(handed)
        if self._protocol.committed < self._protocol.cleared:
            self._commit_next()
        if self._out is not None and self._out.putters:
            self._out.freed()

    # -- endings ---------------------------------------------------------------------------------------

    def statistics(self) -> Statistics:
        """A frozen snapshot of the counters and states."""
        if self._dispatcher is not None:
            self._protocol.buffered_bytes = self._dispatcher.buffered_bytes()
        return super().statistics()

    def _perform(self) -> None:
        if self._out is not None:
            # Something was decided: before anything else happens, chunks are for the protocol to judge again.
            self._out.lease = 0
        super()._perform()

    def _stop_producer(self) -> None:
        if self._pump is not None:
            self._pump.stop()
        else:
            self._stop_pull()

    def _arm(self) -> None:
        protocol, out = self._protocol, self._out
        if out is not None and out.reader_due and protocol.state is DRAINED and protocol.eos_ready:
            return  # The reader was woken and takes EOS in this turn of the loop: there is no wait to bound.
        super()._arm()

    def _given_up(self) -> None:
        if isinstance(self._pump, Pump):
            self._pump.given_up()
        super()._given_up()

    def _wake_consumer(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.discard()
        if self._out is not None:
            self._out.wake_consumer()

    def _wake_producer(self) -> None:
        if self._out is not None:
            self._out.wake_producers()

    def _check_one_way(self) -> None:
        if self._handed:
            raise UsageError("`async for` was begun after read_ready(); read a stream in one way")


def _pump_ended(session: weakref.ref[SessionBase], error: BaseException | None) -> None:
    if isinstance(alive := session(), PushSession):
        alive._pump_ended(error)


def _pump_broke(session: weakref.ref[SessionBase], error: Exception) -> None:
    if isinstance(alive := session(), PushSession):
        alive.terminate(Cause.INTERNAL_ERROR, describe(error))
