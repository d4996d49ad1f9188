"""Reads a stream by pulling: chunks go straight through, with no task, no queue and no timer between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable
from enum import Enum
from typing import Any, Final

from streamguard_core._interrupt import current_task, running_task
from streamguard_core._loop_session import LoopSession
from streamguard_core._pump import Unread, close_iterator
from streamguard_core._stepping import Detached, Step
from streamguard_core._winding import Winding
from streamguard_core.chunks import AnyChunk, buffer_size
from streamguard_core.errors import LedgerError, UsageError
from streamguard_core.producers import Drive
from streamguard_core.transitions import DRAINING, ENDED, OPEN, STOPPING, STREAMING

_BATCHES: Final = Drive.BATCHES


class Within(Enum):
    """Where a reader's generator is."""

    CHUNKWISE = "it goes chunk by chunk, so the counters say where it is"
    INSIDE = "in the producer's iterator"
    AT_YIELD = "with a batch that was handed over"


CHUNKWISE: Final = Within.CHUNKWISE
INSIDE: Final = Within.INSIDE
AT_YIELD: Final = Within.AT_YIELD


class PullSession(LoopSession):
    """The pull path. The reader's own task runs the producer's iterator; a cutoff interrupts it there.

    Invariant: the iterator is closed exactly once: by its own end, by the reader that leaves, or by `Winding`.
    """

    __slots__ = (
        "_parked",
        "_reading",
        "_rest",
        "_silent_ns",
        "_source",
        "_winding",
        "_within",
        "reads_ahead",
    )

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._source: Any = None
        """The producer's iterator, from the first read until it has ended or is being closed."""
        self._within: Within | None = None
        """Where the reader's generator is; None where there is none."""
        self._reading = False
        self._parked = False
        """The reader waits for the OPEN record."""
        self.reads_ahead: Step | None = None
        """A next chunk that was begun in the reader's task and was not ready; see `StreamSession.batches()`."""
        self._rest: list[AnyChunk] | None = None
        """What is left, last first, of a list the producer handed over at once; not accepted yet."""
        self._silent_ns = 0
        """How long there was no content when the last chunk without any came."""
        self._winding: Winding | None = None

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

    def _refuse(self, chunk: AnyChunk) -> None:
        """A chunk came after the cutoff: it is late."""
        self._protocol.offer(buffer_size(chunk), self._clock.monotonic_ns())

    def _asked(self, chunks: int) -> None:
        """The reader came back: what it was handed is consumed, and the producer owes the next."""
        protocol = self._protocol
        protocol.consumed += chunks
        if protocol.timed:
            protocol.consumer_since_ns = None
            protocol.producer_since_ns = self._clock.monotonic_ns() - self._silent_ns

    def _stop_reading(self) -> None:
        """Free the reader's place; hand EOS over if the stream is at its end and the reader there to take it."""
        took_leave, self._reading = not self._reading, False
        self._within = None
        if not took_leave and not self._protocol.live and self._protocol.consumer is not ENDED:
            self._protocol.take_eos(self._clock.monotonic_ns())
            self._perform()

    # -- how a pull ends -------------------------------------------------------------------------------

    def _pull_ended(self, *, reader_is_at_end: bool = True) -> None:
        """The iterator is exhausted (no source), or was left alone because of the cutoff.

        A reader that has taken everything takes EOS in the same step: then nothing is left to be timed.
        """
        self._within = None
        self._interrupt.absorb()
        self._refuse_rest()
        if self._source is None:
            if self._winding is None:
                self._note_end(None)
                if reader_is_at_end:
                    self._protocol.take_eos(self._clock.monotonic_ns())
                self._perform()
        else:
            self._wind()

    def _pull_raised(self, error: BaseException) -> None:
        """The iterator raised, by itself or because it was interrupted. An outside cancellation propagates."""
        self._within = None
        ours = self._interrupt.issued
        outside = self._interrupt.absorb()
        if isinstance(error, Detached):
            return
        source, self._source, self.reads_ahead = self._source, None, None
        # A CancelledError that nobody asked for is an error of the producer's own.
        interrupted = isinstance(error, asyncio.CancelledError) and (ours or outside)
        if outside:
            self._apply(lambda now_ns: self._leave("the reader's task was cancelled", now_ns))
        if interrupted:
            # What the cancellation has broken cannot be read on, neither for a tail nor under a drain.
            self._apply(self._protocol.stop_draining)
        self._source_broke(source, None if interrupted else error)
        if outside:
            # Also where the producer's clean-up has put an error of its own in its place.
            self._reading = False
            raise error if interrupted else asyncio.CancelledError() from error
        if interrupted:
            return
        unopened = source is None and isinstance(error, LedgerError | UsageError)
        if unopened or not isinstance(error, Exception | asyncio.CancelledError):
            self._stop_reading()
            raise error

    def _source_broke(self, source: Any, error: BaseException | None) -> None:
        """An async generator that raised is finished; any other iterator still wants its `aclose()`."""
        self._refuse_rest()
        if self._winding is not None:
            return
        wants_close = getattr(source, "ag_frame", source) is not None and hasattr(source, "aclose")
        # One that was told to end has ended when it is closed, and not before: the receipt says when (G10).
        if not wants_close or error is not None or self._protocol.producer is not STOPPING:
            self._producer_ended(error)
        if wants_close:
            self._winding = Winding(self, source, None)

    async def _reader_left(self) -> None:
        """`break` or `aclose()` at a yield: the policy decides; an iterator that is cut is closed right here."""
        self._within = None
        source, self._source = self._source, None
        protocol = self._protocol
        self._apply(lambda now_ns: self._leave("the reader closed its iterator", now_ns))
        self._refuse_rest()
        self._reading = False
        if source is None or self._winding is not None:
            return
        if protocol.producer is DRAINING:
            self._source = source
            self._wind()
            return
        error: BaseException | None = None
        step, self.reads_ahead = self.reads_ahead, None
        try:
            if step is not None:
                with contextlib.suppress(StopAsyncIteration, asyncio.CancelledError):
                    self._refuse(await step.cancel(asyncio.CancelledError()))
            await close_iterator(source)
        except BaseException as raised:
            error = raised
        self._producer_ended(error)

    def _leave(self, detail: str, now_ns: int) -> None:
        self._intend(detail, now_ns, len(self._rest or ()))

    def _refuse_rest(self) -> None:
        """What a producer handed over and was not accepted before the cutoff is late."""
        while self._rest and not self._protocol.live:
            self._protocol.offer(buffer_size(self._rest.pop()), self._clock.monotonic_ns())

    # -- endings ---------------------------------------------------------------------------------------

    def _stop_pull(self) -> None:
        """Tell the iterator to end: where the reader is parked inside it, by interrupting the reader."""
        if self._winding is not None:
            self._winding.stop()
        elif self._parked or self._inside():
            self._interrupt_reader()
        elif self._source is not None:
            self._wind()
        elif not self._reading:
            self._close_unread()

    def _close_unread(self) -> None:
        """The producer was never asked; one that was opened before it was given wants to be closed."""
        if self._drive in (Drive.ASYNC, Drive.SYNC) and self._loop is not None:
            self._source = Unread(self._producer)
            self._wind()
        else:
            self._producer_ended(None)

    def _inside(self) -> bool:
        """True while the reader's generator runs or waits inside the producer's iterator.

        One that goes chunk by chunk is elsewhere only at a `yield`: with a chunk that is not consumed yet.
        """
        if self._within is CHUNKWISE:
            return self._protocol.consumed == self._protocol.produced
        return self._within is INSIDE

    def _interrupt_reader(self) -> None:
        if self._interrupt.task is current_task():
            # The producer cut its own stream off, in the reader's task: let it return first.
            assert self._loop is not None
            self._loop.call_soon(self._interrupt_if_inside)
        else:
            self._interrupt.send()

    def _interrupt_if_inside(self) -> None:
        # Elsewhere by now, it has seen the cutoff when the iterator returned to it.
        if self._protocol.producer is STOPPING and (self._parked or self._inside()):
            self._interrupt.send()

    def _wind(self) -> None:
        """Close the iterator from a task of its own; under a drain, read it on first."""
        self._refuse_rest()
        source, self._source = self._source, None
        step, self.reads_ahead = self.reads_ahead, None
        assert self._winding is None, "whoever winds takes the source with it"
        self._winding = Winding(self, source, step)

    def _given_up(self) -> None:
        """The close deadline passed while the reader waits for a step of a deaf iterator: free it."""
        if self.reads_ahead is not None and self._inside():
            self.reads_ahead.detached = True
            self._interrupt.send()


class _Empty:
    """An async iterator without a chunk: what a reader gets after the cutoff."""

    def __aiter__(self) -> _Empty:
        return self

    async def __anext__(self) -> AnyChunk:
        raise StopAsyncIteration
