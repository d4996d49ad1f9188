"""Pulls a stream in batches: chunks that come one at a time go straight through, others together in a list."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

from streamguard_core._beside import run_beside
from streamguard_core._interrupt import running_task
from streamguard_core._pull_session import AT_YIELD, CHUNKWISE, INSIDE, PullSession
from streamguard_core._stepping import Step
from streamguard_core.chunks import AnyChunk
from streamguard_core.transitions import STREAMING

Batches = AsyncGenerator[list[AnyChunk], None]

SINGLES: Final = 16
"""After how many chunks that came one at a time it is looked whether they come together now."""
FAIRNESS: Final = 4
"""Full batches in a row after which the loop gets a turn: a disconnect must be heard."""


class BatchSession(PullSession):
    """For readers that take a whole stream and send it: adapters in their send loop."""

    __slots__ = ()

    @property
    def reads_ahead(self) -> bool:
        """True while the next chunk is begun already, in the reader's own task; see `batches()`."""
        return self._step is not None

    async def beside(self, sending: Awaitable[None]) -> None:
        """Await what sends the latest batch, in a task of its own while the session reads ahead.

        Something inside the producer's iterator may cancel the task in which it was begun (a timeout, a
        task group); that must not hit the send, and must not look like a reader that left (G14).
        """
        if self._step is None:
            await sending
        else:
            await run_beside(sending, self._step, lambda: self._step)

    async def _pull_ahead(  # noqa: C901 - one frame on purpose: a call per chunk is what it would cost
        self, limit: int
    ) -> Batches:
        """One by one; where chunks come together, the iterator is stepped by hand until one has to wait.

        The step that has to wait stays begun while the batch is handed over: a flush waits for nothing.
        """
        self._claim_stream()
        protocol, interrupt, loop = self._protocol, self._interrupt, self._loop
        streaming, timed, limit = STREAMING, protocol.timed, min(limit, protocol.max_inflight)
        singles, full = 1, 0
        ready: list[AnyChunk] = []
        step = Step()
        try:
            source = await self._open_source()
            begin, begin_by_hand = source.__anext__, stepper(source)
            while True:
                alone = singles > 0
                if alone:
                    singles -= 1
                    chunk = await begin()
                else:
                    self._within = INSIDE
                    awaitable = begin_by_hand()
                    try:
                        future = awaitable.send(None)
                    except StopIteration as done:
                        chunk = done.value
                    else:
                        # Not ready: hand over what is, keep the step, and wait for it afterwards.
                        step.hold(awaitable, future)
                        self._step = step
                        if ready:
                            full = 0
                            self._within = AT_YIELD
                            yield ready
                            self._within = INSIDE
                            self._asked(len(ready))
                            ready = []
                            if protocol.state is not streaming:
                                break
                            interrupt.task = running_task(loop)
                        elif not full:
                            # Nothing came with the chunk before: look again after some more.
                            singles, alone = SINGLES, True
                        else:
                            full = 0
                        chunk = await step.wait()
                        self._step = None
                if timed or protocol.state is not streaming:
                    if not self._accept(chunk):
                        self._refuse(chunk)
                        break
                else:
                    protocol.produced = protocol.committed = protocol.produced + 1
                if alone:
                    self._within = CHUNKWISE
                    yield [chunk]
                    protocol.consumed += 1
                    if timed:
                        self._asked(0)
                else:
                    ready.append(chunk)
                    if len(ready) < limit:
                        continue
                    self._within = AT_YIELD
                    yield ready
                    self._within = INSIDE
                    self._asked(len(ready))
                    ready = []
                    full += 1
                if protocol.state is not streaming:
                    break
                interrupt.task = running_task(loop)
                if full == FAIRNESS:
                    full = 0
                    await asyncio.sleep(0)
            self._pull_ended(reader_is_at_end=not ready)
        except StopAsyncIteration:
            self._source = self._step = None
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
