"""How a pull ends: by its iterator, by its reader, by a cutoff that finds the reader anywhere."""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from typing import Any, Final

from streamguard_core._ack_session import AcknowledgingSession
from streamguard_core._interrupt import current_task
from streamguard_core._pump import Unread, close_iterator
from streamguard_core._stepping import Detached, Step
from streamguard_core._winding import Winding
from streamguard_core.chunks import AnyChunk, buffer_size
from streamguard_core.errors import LedgerError, StreamStopped, UsageError
from streamguard_core.producers import Drive
from streamguard_core.transitions import DRAINING, ENDED, STOPPING


class Within(Enum):
    """Where a reader's generator is."""

    CHUNKWISE = "it goes chunk by chunk, so the counters say where it is"
    INSIDE = "in the producer's iterator"
    AT_YIELD = "with a batch that was handed over"


CHUNKWISE: Final = Within.CHUNKWISE
INSIDE: Final = Within.INSIDE
AT_YIELD: Final = Within.AT_YIELD
_ENDS: Final = (Exception, asyncio.CancelledError, StreamStopped)
"""What a producer ends with; anything else is the process's affair."""


class PullEnding(AcknowledgingSession):
    """What the pull path knows of its reader and its iterator, and how both are let go.

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

    # -- the reader's place ----------------------------------------------------------------------------

    def _stop_reading(self) -> None:
        """Free the reader's place; hand EOS over if the stream is at its end and the reader there to take it."""
        took_leave, self._reading = not self._reading, False
        self._within = None
        if not took_leave and not self._protocol.live and self._protocol.consumer is not ENDED:
            self._protocol.take_eos(self._clock.monotonic_ns())
            self._perform()

    def _refuse(self, chunk: AnyChunk) -> None:
        """A chunk came after the cutoff: it is late."""
        self._protocol.offer(buffer_size(chunk), self._clock.monotonic_ns())

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
        if unopened or not isinstance(error, _ENDS):
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
