"""What reading a response comes to, whoever waits for its bytes: chunks, and how it ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from streamguard_core import NO_USAGE, AnyChunk, CountSource, Usage, UsageError
from streamguard_providers.errors import EventTooLarge, ProviderError, provider_error
from streamguard_providers.results import BROKE_OFF, End, EndState, StreamAccumulator
from streamguard_providers.stream_decoder import StreamDecoder

#: After an error the usage may still come: so much is read on for it.
DRAIN_BYTES: Final = 64 * 1024
#: The finish reason with which a model declines.
_REFUSED: Final = "refusal"

Item = AnyChunk | End
"""What an opened stream yields: chunks, and then its `End`."""


class Opened:
    """What reading a response comes to, whoever waits for its bytes. Sans-I/O."""

    def __init__(
        self,
        decoder: StreamDecoder,
        max_output_bytes: int,
        idle_timeout: float | None,
        clock: Callable[[], float],
    ) -> None:
        if idle_timeout is not None and not idle_timeout > 0:
            raise UsageError(f"idle_timeout={idle_timeout} was given; it is more than 0 seconds")
        self.decoder = decoder
        """Framing and dialect, with what they have seen so far."""
        self.accumulator = StreamAccumulator(max_output_bytes)
        """Text, thoughts and tool calls of the bytes read so far."""
        self.end: End | None = None
        """How the response ended; None as long as it has not."""
        self._idle = idle_timeout
        self._clock = clock
        self._heard: float | None = None
        self._drained = 0
        self._ready: deque[Item] = deque()
        self._is_over = False
        """The `End` was handed out."""
        self._is_closed = False
        """The byte source was closed."""
        self._is_reading = False

    def __repr__(self) -> str:
        state = "open" if self.end is None else self.end.state.value
        return f"<{type(self).__name__} {state}, {self.decoder.framing.offset} bytes>"

    def _take(self, data: object) -> list[Item]:
        """Bytes have come."""
        if not isinstance(data, bytes):
            data = _as_bytes(data)
        decoder = self.decoder
        if decoder.error is not None:
            self._drained += len(data)
        try:
            chunks = decoder.feed(data)
        except (ProviderError, EventTooLarge) as error:
            return self._unreadable(error)
        if chunks:
            self.accumulator.extend(chunks)
        if decoder.dialect.done or self._drained > DRAIN_BYTES:
            return [*chunks, self._conclude(self._how())]
        if self._idle is not None and self._has_stalled(bool(chunks), self._idle):
            return [self._conclude(EndState.STALLED)]
        return list(chunks)

    def _ended(self) -> list[Item]:
        """The bytes have ended."""
        try:
            chunks = self.decoder.close()
        except (ProviderError, EventTooLarge) as error:
            return self._unreadable(error)
        self.accumulator.extend(chunks)
        return [*chunks, self._conclude(self._how())]

    def _broke(self, cause: Exception) -> list[Item]:
        """The bytes ended with an exception: what came before an event's end is none."""
        if self.decoder.error is not None:
            return [self._conclude(EndState.PROVIDER_ERROR)]
        return [self._conclude(EndState.TRUNCATED, cause=cause)]

    def _unreadable(self, error: ProviderError | EventTooLarge) -> list[Item]:
        if self.decoder.error is None and isinstance(error, ProviderError):
            return [self._conclude(EndState.PROVIDER_ERROR, error=error)]
        return self._broke(error)

    def _cancelled(self) -> None:
        """Whoever reads stops: an `End` that was not handed out yet is the last item all the same."""
        if self.end is None:
            self._conclude(EndState.CANCELLED)
        self._ready.clear()
        if not self._is_over and self.end is not None:
            self._ready.append(self.end)

    def _has_stalled(self, said_something: bool, idle: float) -> bool:
        if self.decoder.error is not None:
            return False
        now = self._clock()
        if said_something or self._heard is None:
            self._heard = now
        return now - self._heard > idle

    def _next_ready(self) -> Item | None:
        """The next item that is ready; None when there is none."""
        if not self._ready:
            return None
        item = self._ready.popleft()
        self._is_over = item is self.end
        return item

    def _all_ready(self) -> list[Item]:
        batch = list(self._ready)
        self._ready.clear()
        self._is_over = bool(batch) and batch[-1] is self.end
        return batch

    # -- the end -----------------------------------------------------------------------------------

    def _how(self) -> EndState:
        """The state of a response whose terminal marker was seen, or whose bytes ended cleanly."""
        decoder, dialect = self.decoder, self.decoder.dialect
        if decoder.error is not None:
            return EndState.PROVIDER_ERROR
        if not (dialect.complete and (dialect.done or not decoder.framing.truncated)):
            return EndState.COMPLETED_UNCONFIRMED if dialect.done else EndState.TRUNCATED
        if (dialect.finish or "").lower() in BROKE_OFF:
            return EndState.PROVIDER_ERROR
        if dialect.blocked is not None:
            return EndState.BLOCKED
        if dialect.finish == _REFUSED or self.accumulator.refusal():
            return EndState.REFUSED
        return EndState.COMPLETED

    def _conclude(
        self,
        state: EndState,
        *,
        error: ProviderError | None = None,
        cause: Exception | None = None,
    ) -> End:
        decoder, dialect, accumulator = self.decoder, self.decoder.dialect, self.accumulator
        error = decoder.error or error
        if error is None and state is EndState.PROVIDER_ERROR:
            # It has only a finish reason to say so.
            error = provider_error(dialect.provider, {"code": dialect.finish}, what="broke off")
        usage = decoder.usage or NO_USAGE
        finishes = dict(dialect.finishes)
        ended = finishes if state is EndState.COMPLETED else {}
        if state is EndState.COMPLETED_UNCONFIRMED:
            ended = dict.fromkeys(accumulator.choices, "") | finishes
        self.end = End(
            state=state,
            dialect=decoder.dialect_name,
            model=decoder.model,
            finish=decoder.finish,
            finishes=finishes,
            usage=usage,
            usage_partial=_may_grow(usage),
            tool_calls=accumulator.tool_calls(ended),
            refusal=accumulator.refusal(),
            blocked=dialect.blocked,
            error=error,
            cause=cause,
            malformed=decoder.malformed,
            unterminated=decoder.framing.unterminated,
        )
        return self.end


def _may_grow(usage: Usage) -> bool:
    counts = (usage.input, usage.output, usage.cached_input, usage.cache_write, usage.reasoning)
    return any(
        count.source is not CountSource.PROVIDER_FINAL
        for count in counts
        if count.known or count.lower
    )


def _as_bytes(data: object) -> bytes:
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise UsageError(f"open_stream reads bytes, but its iterator yielded {type(data).__name__}")
