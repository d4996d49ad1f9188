"""Pulls a stream in batches: what is ready together is one list, in one frame without a call per chunk."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable
from typing import Any

from streamguard_core._interrupt import running_task
from streamguard_core._pull_session import AT_YIELD, FAIRNESS, INSIDE, PullSession
from streamguard_core._stepping import Step
from streamguard_core.chunks import AnyChunk
from streamguard_core.producers import Drive
from streamguard_core.transitions import STREAMING

Batches = AsyncGenerator[list[AnyChunk], None]


class BatchSession(PullSession):
    """The same pull as `read_ready()`, for readers that take a whole stream: adapters in their send loop."""

    __slots__ = ()

    def _iterate_batches(self, limit: int) -> Batches:
        """The generator of batches; like the one of chunks, it is not referenced here."""
        limit = min(limit, self._protocol.max_inflight)
        if self._protocol.timed or self._step is not None or self._batch_is_out:
            return self._batch_by_batch(limit)
        lists = self._drive is Drive.BATCHES
        return self._pull_lists(limit) if lists else self._pull_ready(limit)

    async def _batch_by_batch(self, limit: int) -> Batches:
        """By `read_ready()`, where instants are needed per chunk."""
        try:
            while batch := await self._read_ready_pull(limit):
                yield batch
        except GeneratorExit:
            self._apply(lambda now_ns: self._leave("the reader closed its iterator", now_ns))

    async def _pull_ready(  # noqa: C901 - one frame on purpose: a call per chunk is what it would cost
        self, limit: int
    ) -> Batches:
        """Steps the iterator by hand: a chunk that is not ready is waited for, its successors are not."""
        self._claim_stream(INSIDE)
        protocol, interrupt, loop, streaming = (
            self._protocol,
            self._interrupt,
            self._loop,
            STREAMING,
        )
        count, full = protocol.produced, 0
        ready: list[AnyChunk] = []
        step = Step(None)
        try:
            begin = stepper(await self._open_source())
            while True:
                awaitable = begin()
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
                        protocol.consumed, ready = count, []
                        if protocol.state is not streaming:
                            break
                        interrupt.task = running_task(loop)
                    chunk = await step.wait()
                    self._step = None
                if protocol.state is not streaming and not self._admit(chunk):
                    break
                count += 1
                protocol.produced = protocol.committed = count
                ready.append(chunk)
                if len(ready) == limit:
                    self._within = AT_YIELD
                    yield ready
                    self._within = INSIDE
                    protocol.consumed, ready = count, []
                    if protocol.state is not streaming:
                        break
                    interrupt.task = running_task(loop)
                    full += 1
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
        try:
            async for items in await self._open_source():
                self._unpack(items)
                rest = self._rest
                while rest and protocol.live:
                    if protocol.state is not STREAMING:
                        protocol.first_chunk(self._clock.monotonic_ns())
                    part = rest[: -limit - 1 : -1]
                    del rest[-limit:]
                    protocol.produced = protocol.committed = protocol.produced + len(part)
                    self._within = AT_YIELD
                    yield part
                    self._within = INSIDE
                    protocol.consumed = protocol.committed
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


def stepper(source: Any) -> Callable[[], Any]:
    """What begins a step of `source`: its `__anext__`, whose result has `send` or is given it."""
    begin: Callable[[], Any] = source.__anext__
    if inspect.isasyncgen(source):
        return begin

    def wrapped() -> Any:
        awaitable = begin()
        return awaitable if hasattr(awaitable, "send") else awaitable.__await__()

    return wrapped
