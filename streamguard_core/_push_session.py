"""Reads a stream through the speculative buffer: for push producers, gates, grace, drain and threads."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator
from itertools import islice
from typing import Any

from streamguard_core._base import SessionBase
from streamguard_core._out import SessionOut
from streamguard_core._pull_session import PullSession
from streamguard_core._pump import Pump
from streamguard_core._thread_pump import ThreadPump
from streamguard_core.chunks import AnyChunk, size_of
from streamguard_core.dispatcher import Dispatcher
from streamguard_core.errors import UsageError
from streamguard_core.producers import Drive
from streamguard_core.transitions import RUNNING, STREAMING


class PushSession(PullSession):
    """The push path: a pump runs the producer, the dispatcher moves chunks, the reader waits on one future."""

    __slots__ = ("_dispatcher", "_handed", "_out", "_place", "_pump")

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._dispatcher: Dispatcher | None = None
        self._out: SessionOut | None = None
        self._pump: Pump | ThreadPump | None = None
        self._place: object | None = None
        """Identifies the reader; a new one takes the place of one that is not waiting."""
        self._handed: list[AnyChunk] = []
        """What `read_ready()` handed over last; consumed when it is called again."""

    def _start_pump(self) -> None:
        """Start the producer in its own task or thread."""
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
        )

        def ended(error: BaseException | None) -> None:
            if isinstance(alive := session(), PushSession):
                alive._pump_ended(error)

        opened = self._wait_open() if self._opening is not None else None
        if self._drive is Drive.SYNC:
            thread = ThreadPump(self._out, ended, self._protocol.max_speculative)
            self._pump = thread
            thread.start(self._producer, opened)
        else:
            assert self._drive is not None
            self._pump = pump = Pump(self._out, ended)
            pump.start(self._drive, self._producer, opened)

    def _pump_ended(self, error: BaseException | None) -> None:
        """The producer ended: what gates still hold is decided first, then the end."""
        if error is None and self._dispatcher is not None and self._protocol.live:
            self._dispatcher.finished(self._clock.monotonic_ns())
        self._producer_ended(error)
        if self._out is not None:
            self._out.wake_consumer()

    # -- async for -------------------------------------------------------------------------------------

    async def _iterate_push(self) -> AsyncGenerator[AnyChunk, None]:
        place = self._take_place()
        protocol, dispatcher, out = self._protocol, self._dispatcher, self._out
        timed, now = protocol.timed, self._clock.monotonic_ns
        assert dispatcher is not None
        assert out is not None
        queue, putters, plain = dispatcher.queue, out.putters, not self._gates
        try:
            while True:
                while queue:
                    if timed:
                        protocol.consumer_since_ns = now()
                    chunk = queue[0]
                    yield chunk
                    # Asking for more says that the transport took this one over.
                    if self._place is not place:
                        raise self._superseded()
                    queue.popleft()
                    protocol.consumer_since_ns = None
                    size = (
                        len(chunk) if chunk.__class__ is str and chunk.isascii() else size_of(chunk)
                    )
                    if plain and protocol.state is STREAMING and protocol.producer is RUNNING:
                        # `StreamProtocol.release` in place.
                        protocol.consumed += 1
                        protocol.buffered_bytes -= size
                        if protocol.committed < protocol.cleared:
                            protocol.committed += 1
                    else:
                        dispatcher.taken(size, now())
                    if putters:
                        out.freed()
                    if protocol.pending:
                        self._perform()
                if not protocol.live:
                    break
                await self._park_push()
            self._hand_eos()
        except GeneratorExit:
            if self._place is place:
                self._push_reader_left("the reader closed its iterator")
        except asyncio.CancelledError:
            self._push_reader_left("the reader's task was cancelled")
            raise

    async def _park_push(self) -> None:
        """Wait on one future for a chunk or the cutoff; both wake it in the same step (G7)."""
        assert self._out is not None
        assert self._loop is not None
        self._out.consumer = self._loop.create_future()
        self._interrupt.task = asyncio.current_task()
        await self._out.consumer

    def _take_place(self) -> object:
        """Become the reader; one that is not waiting at this moment is superseded (it left, or is told so)."""
        self.start()
        out = self._out
        if out is not None and out.consumer is not None and not out.consumer.done():
            raise UsageError(
                f"session {self.stream_id} is being read; a stream has one reader at a time"
            )
        self._place = object()
        self._interrupt.task = asyncio.current_task()
        self._protocol.reading()
        return self._place

    def _superseded(self) -> UsageError:
        return UsageError(
            f"session {self.stream_id} was read by somebody else meanwhile; a stream has one reader"
        )

    def _push_reader_left(self, detail: str) -> None:
        """What was handed over and not taken stays committed: a reader that comes back gets it again."""
        self._place = None
        self._apply(lambda now_ns: self._protocol.disconnected(detail, now_ns))

    def _hand_eos(self) -> None:
        self._protocol.take_eos(self._clock.monotonic_ns())
        self._perform()

    # -- read_ready ------------------------------------------------------------------------------------

    async def _read_ready_push(self, limit: int) -> list[AnyChunk]:
        """Everything committed and ready, at least one chunk; empty at EOS."""
        self._take_place()
        protocol, dispatcher = self._protocol, self._dispatcher
        assert dispatcher is not None
        queue = dispatcher.queue
        try:
            self._acknowledge(dispatcher)
            while not queue and protocol.live:
                await self._park_push()
        except asyncio.CancelledError:
            self._push_reader_left("the reader's task was cancelled")
            raise
        self._handed = list(islice(queue, min(limit, protocol.committed - protocol.consumed)))
        if not self._handed:
            self._hand_eos()
        elif protocol.timed:
            protocol.consumer_since_ns = self._clock.monotonic_ns()
        return list(self._handed)

    def _acknowledge(self, dispatcher: Dispatcher) -> None:
        """The reader came back: what it was handed is consumed, and there is room."""
        handed, self._handed = self._handed, []
        if not handed:
            return
        now_ns = self._clock.monotonic_ns()
        self._protocol.consumer_since_ns = None
        for chunk in handed:
            dispatcher.queue.popleft()
            dispatcher.taken(size_of(chunk), now_ns)
        if self._out is not None and self._out.putters:
            self._out.freed()
        self._perform()

    # -- endings ---------------------------------------------------------------------------------------

    def _stop_producer(self) -> None:
        if self._pump is not None:
            self._pump.stop()
        else:
            self._stop_pull()

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
