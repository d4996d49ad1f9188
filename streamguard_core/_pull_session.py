"""Reads a stream by pulling: chunks go straight through, with no task, no queue and no timer between."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Any, Final

from streamguard_core._pull_ending import CHUNKWISE, INSIDE, PullEnding, Within
from streamguard_core.chunks import AnyChunk
from streamguard_core.errors import UsageError
from streamguard_core.producers import Drive
from streamguard_core.running import running_task
from streamguard_core.transitions import OPEN, STREAMING

_BATCHES: Final = Drive.BATCHES


class PullSession(PullEnding):
    """The pull path. The reader's own task runs the producer's iterator; a cutoff interrupts it there."""

    __slots__ = ()

    # -- async for -------------------------------------------------------------------------------------

    def _iterate_pull(self) -> AsyncGenerator[AnyChunk, None]:
        """The reader's generator. It is not referenced here: a dropped one must be finalised at once."""
        if self._drive is _BATCHES:
            return self._pull_batches()
        return self._pull_timed() if self._protocol.timed else self._pull_plain()

    async def _pull_plain(self) -> AsyncGenerator[AnyChunk, None]:
        """The hot path: one comparison, three counters and the reader's task, per chunk."""
        self._claim_stream()
        try:
            source = await self._open_source()
            protocol, interrupt, loop, streaming = (
                self._protocol,
                self._interrupt,
                self._loop,
                STREAMING,
            )
            count = protocol.produced
            async for chunk in source:
                if protocol.state is not streaming and not self._admit(chunk):
                    break
                count += 1
                protocol.produced = protocol.committed = count
                yield chunk
                # Asking for more says that the transport took this one over.
                protocol.consumed = count
                if protocol.state is not streaming:
                    break
                interrupt.task = running_task(loop)
            else:
                self._source = None
            self._pull_ended()
        except GeneratorExit:
            await self._reader_left()
        except BaseException as error:
            self._pull_raised(error)
        finally:
            self._stop_reading()

    async def _pull_timed(self) -> AsyncGenerator[AnyChunk, None]:
        """The same with the instants that deadlines need: `_accept` and `_asked` in place for content."""
        self._claim_stream()
        try:
            source = await self._open_source()
            protocol, interrupt, loop, streaming, now, stalls = (
                self._protocol,
                self._interrupt,
                self._loop,
                STREAMING,
                self._clock.monotonic_ns,
                self._protocol.deadlines.consumer_stall is not None,
            )
            async for chunk in source:
                if chunk and protocol.state is streaming:
                    protocol.produced = protocol.committed = protocol.produced + 1
                    protocol.content_seen, protocol.producer_since_ns, self._silent_ns = (
                        True,
                        None,
                        0,
                    )
                    if stalls:
                        protocol.consumer_since_ns = now()
                elif not self._accept(chunk):
                    self._refuse(chunk)
                    break
                yield chunk
                protocol.consumed += 1
                protocol.consumer_since_ns = None
                protocol.producer_since_ns = now() - self._silent_ns
                if not protocol.live:
                    break
                interrupt.task = running_task(loop)
            else:
                self._source = None
            self._pull_ended()
        except GeneratorExit:
            await self._reader_left()
        except BaseException as error:
            self._pull_raised(error)
        finally:
            self._stop_reading()

    async def _pull_batches(self) -> AsyncGenerator[AnyChunk, None]:
        """For producers that hand over lists."""
        self._claim_stream()
        try:
            source = await self._open_source()
            protocol, interrupt, loop = self._protocol, self._interrupt, self._loop
            async for item in source:
                self._unpack(item)
                while self._rest and self._accept(self._rest[-1]):
                    yield self._rest.pop()
                    self._asked(1)
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

    async def _read_ended(self) -> list[AnyChunk]:
        """EOS of a stream that was cut off before it was read; or what is wrong with reading it."""
        self._claim_stream(INSIDE)
        try:
            await self._open_source()
            self._pull_ended()
        except BaseException as error:
            self._pull_raised(error)
        finally:
            self._stop_reading()
        return []

    # -- reading, either way ---------------------------------------------------------------------------

    def _claim_stream(self, within: Within = CHUNKWISE) -> None:
        """Become the reader, who takes the rest of the stream; one at a time. A cutoff interrupts it."""
        self.start()
        if self._reading:
            raise UsageError(
                f"session {self.stream_id} is being read; a stream has one reader at a time"
            )
        self._check_pulled()
        self._reading, self._within = True, within
        self._interrupt.watch(running_task(self._loop))
        self._protocol.reading()

    def _check_pulled(self) -> None:
        """An iterator that a pump runs is not pulled as well."""

    async def _open_source(self) -> Any:
        """The producer's iterator, called once the OPEN record is durable; an empty one after the cutoff."""
        if self._source is not None or not self._protocol.live:
            return self._source if self._protocol.live else _Empty()
        if self._opening is not None:
            self._parked = True
            try:
                await self._wait_open()
            finally:
                self._parked = False
        if self._producer is None:
            raise UsageError(
                f"session {self.stream_id} has no producer to read; give one, or attach() it first"
            )
        batches = self._drive is Drive.BATCHES
        iterable = self._producer.stream(report=self) if batches else self._producer
        # The producer's own code runs here, and may cut its stream off.
        self._source = iterable.__aiter__()
        return self._source

    def _unpack(self, items: Iterable[AnyChunk]) -> None:
        """Take over what the producer handed over at once; nothing of it is accepted yet."""
        self._rest = list(items)[::-1]

    def _accept(self, chunk: AnyChunk) -> bool:
        """Produce and commit one chunk, with its instant; False after the cutoff."""
        protocol = self._protocol
        if protocol.state is not STREAMING:
            if not protocol.live:
                return False
            protocol.first_chunk(self._clock.monotonic_ns())
        protocol.produced = protocol.committed = protocol.produced + 1
        if protocol.timed:
            now_ns = protocol.consumer_since_ns = self._clock.monotonic_ns()
            since_ns, protocol.producer_since_ns = protocol.producer_since_ns, None
            if chunk:
                protocol.content_seen = True
                self._silent_ns = 0
            elif since_ns is not None:
                self._silent_ns = now_ns - since_ns
        return True

    def _admit(self, chunk: AnyChunk) -> bool:
        """The slow side of the hot path's comparison: the first chunk, or one after the cutoff."""
        protocol = self._protocol
        if protocol.state is OPEN:
            protocol.first_chunk(self._clock.monotonic_ns())
            return True
        self._refuse(chunk)
        return False

    def _asked(self, chunks: int) -> None:
        """The reader came back: what it was handed is consumed, and the producer owes the next."""
        protocol = self._protocol
        protocol.consumed += chunks
        if protocol.timed:
            protocol.consumer_since_ns = None
            protocol.producer_since_ns = self._clock.monotonic_ns() - self._silent_ns


class _Empty:
    """An async iterator without a chunk: what a reader gets after the cutoff."""

    def __aiter__(self) -> _Empty:
        return self

    async def __anext__(self) -> AnyChunk:
        raise StopAsyncIteration
