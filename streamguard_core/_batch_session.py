"""Pulls a stream in batches: chunks that come one at a time go straight through, others together in a list."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

from streamguard_core._beside import run_beside
from streamguard_core._pull_ending import AT_YIELD, CHUNKWISE, INSIDE
from streamguard_core._pull_session import PullSession
from streamguard_core._stepping import Step
from streamguard_core.chunks import AnyChunk
from streamguard_core.running import running_task
from streamguard_core.transitions import STREAMING

Batches = AsyncGenerator[list[AnyChunk], None]

LOOK_AGAIN: Final = (4, 64)
"""After how many chunks that came one at a time it is looked whether they come together now: soon at first,
twice as late each time, and never later than this."""
FAIRNESS: Final = 4
"""Full batches in a row after which the loop gets a turn: a disconnect must be heard."""


class BatchSession(PullSession):
    """For readers that take a whole stream and send it: adapters in their send loop."""

    __slots__ = ()

    async def beside(self, sending: Awaitable[None]) -> None:
        """Await what sends the latest batch, in a task of its own while the session reads ahead.

        Something inside the producer's iterator may cancel the task in which it was begun (a timeout, a
        task group); that must not hit the send, and must not look like a reader that left (G14).
        """
        if self.reads_ahead is None:
            await sending
        else:
            await run_beside(sending, self.reads_ahead, lambda: self.reads_ahead)

    async def _pull_ahead(  # noqa: C901 - one frame on purpose: a call per chunk is what it would cost
        self, limit: int
    ) -> Batches:
        """One by one; where chunks come together, the iterator is stepped by hand until one has to wait.

        The step that has to wait stays begun while the batch is handed over: a flush waits for nothing.
        """
        self._claim_stream()
        protocol, streaming, timed = self._protocol, STREAMING, self._protocol.timed
        limit = min(limit, protocol.max_inflight)
        singles, patience, full = 1, LOOK_AGAIN[0], 0
        ready: list[AnyChunk] = []
        step = Step()
        try:
            source = await self._open_source()
            begin = stepper(source)
            while protocol.live:
                # One at a time: as `async for` over the session, in lists of one.
                self._within = CHUNKWISE
                count = protocol.produced
                until = count + singles
                async for chunk in source:
                    count += 1
                    if protocol.state is streaming and not timed:
                        protocol.produced = protocol.committed = count
                    elif not self._accept(chunk):
                        self._refuse(chunk)
                        break
                    yield [chunk]
                    protocol.consumed = count
                    if timed:
                        self._asked(0)
                    if count == until or protocol.state is not streaming:
                        break
                else:
                    self._source = None
                    break
                # Together, for as long as more than one is found.
                self._within, singles = INSIDE, 0
                while not singles and protocol.live:
                    awaitable = begin()
                    try:
                        future = awaitable.send(None)
                    except StopIteration as done:
                        chunk = done.value
                    else:
                        # Not ready: hand over what is, keep the step, and wait for it afterwards.
                        step.hold(awaitable, future)
                        self.reads_ahead = step
                        if len(ready) > 1 or full:
                            full, patience = 0, LOOK_AGAIN[0]
                        else:
                            # Nothing came with the chunk before: look again after some more.
                            singles, patience = patience, min(2 * patience, LOOK_AGAIN[1])
                        if ready:
                            self._within = AT_YIELD
                            yield ready
                            self._within = INSIDE
                            self._asked(len(ready))
                            ready = []
                            if protocol.state is not streaming:
                                break
                        chunk = await step.wait()
                        self.reads_ahead = None
                    if protocol.state is streaming and not timed:
                        protocol.produced = protocol.committed = protocol.produced + 1
                    elif not self._accept(chunk):
                        self._refuse(chunk)
                        break
                    ready.append(chunk)
                    if singles or len(ready) >= limit:
                        self._within = AT_YIELD
                        yield ready
                        self._within = INSIDE
                        self._asked(len(ready))
                        ready = []
                        full += not singles
                        if full == FAIRNESS:
                            full, self._within = 0, AT_YIELD
                            await asyncio.sleep(0)
                            self._within = INSIDE
            self._pull_ended(reader_is_at_end=not ready)
        except StopAsyncIteration:
            self._source = self.reads_ahead = None
            self._pull_ended(reader_is_at_end=not ready)
        except GeneratorExit:
            ready = []
            await self._reader_left()
        except BaseException as error:
            self._pull_raised(error)
        try:
            if ready:
                # Committed before the end came: it is still the reader's.
                yield ready
                protocol.consumed = protocol.committed
        except GeneratorExit:
            await self._reader_left()
        finally:
            self._stop_reading()

    async def _pull_lists(self, limit: int) -> Batches:
        """For producers that hand over lists: they are passed on as they are, in parts of `limit`."""
        self._claim_stream(INSIDE)
        protocol, interrupt, loop = self._protocol, self._interrupt, self._loop
        limit = min(limit, protocol.max_inflight)
        try:
            async for items in await self._open_source():
                self._unpack(items)
                rest = self._rest
                while rest and protocol.live:
                    part = rest[: -limit - 1 : -1]
                    del rest[-limit:]
                    self._accept_all(part)
                    self._within = AT_YIELD
                    yield part
                    self._within = INSIDE
                    self._asked(len(part))
                    interrupt.task = running_task(loop)
                if not protocol.live:
                    break
            else:
                self._source = None
            self._pull_ended()
        except GeneratorExit:
            await self._reader_left()
        except BaseException as error:
            self._pull_raised(error)
        finally:
            self._stop_reading()

    def _accept_all(self, part: list[AnyChunk]) -> None:
        """Produce and commit what is handed over together, while the stream is live."""
        protocol = self._protocol
        if protocol.timed:
            for chunk in part:
                self._accept(chunk)
            return
        if protocol.state is not STREAMING:
            protocol.first_chunk(self._clock.monotonic_ns())
        protocol.produced = protocol.committed = protocol.produced + len(part)


def stepper(source: Any) -> Callable[[], Any]:
    """What begins a step of `source`: its `__anext__`, whose result has `send` or is given it."""
    begin: Callable[[], Any] = source.__anext__
    if inspect.isasyncgen(source):
        return begin

    def wrapped() -> Any:
        awaitable = begin()
        return awaitable if hasattr(awaitable, "send") else awaitable.__await__()

    return wrapped
