"""What a reader that lost its connection may ask for again: the last committed chunks, by commit offset."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from streamguard_core.chunks import AnyChunk, buffer_size
from streamguard_core.errors import StreamGuardError, UsageError

DEFAULT_MAX_BYTES: Final = 1 << 20
DEFAULT_MAX_CHUNKS: Final = 16384
_END: Final = "end"
_LONGEST: Final = 512
"""No id that we gave is longer; a header may be."""
_DIGITS: Final = 15


class Refusal(StrEnum):
    """Why a stream cannot be continued where a reader wants to."""

    MALFORMED = "malformed"
    """What the reader sent is no id of an event that we sent."""
    UNKNOWN = "unknown"
    """No such stream is kept: it never was, its window is over, or its process is gone."""
    ELSEWHERE = "elsewhere"
    """The stream is, or was, another process's."""
    NOT_YOURS = "not_yours"
    """The stream is somebody else's, or belongs to another address."""
    BEYOND = "beyond"
    """So much was never sent."""
    DROPPED = "dropped"
    """What comes next has fallen out of the bounded buffer."""
    UNEXPECTED = "unexpected"
    """This stream's reader did not say that it acknowledges."""
    BUSY = "busy"
    """Another connection of this reader has the stream."""

    @property
    def status(self) -> int:
        """What it is answered with over HTTP."""
        return _STATUS[self]


_STATUS: Final[dict[Refusal, int]] = {
    Refusal.MALFORMED: 400,
    Refusal.NOT_YOURS: 403,
    Refusal.UNKNOWN: 404,
    Refusal.BEYOND: 409,
    Refusal.UNEXPECTED: 409,
    Refusal.BUSY: 409,
    Refusal.DROPPED: 410,
    Refusal.ELSEWHERE: 421,
}


class ResumeError(StreamGuardError):
    """A stream cannot be continued; the text may be shown to its reader.

    Args:
        refusal: why.
        text: what was asked for, in which state, and what to do.
    """

    def __init__(self, refusal: Refusal, text: str) -> None:
        super().__init__(text)
        self.refusal = refusal

    @property
    def said(self) -> dict[str, str]:
        """What the reader is answered, as JSON; never anything of a stream."""
        return {"error": str(self.refusal), "detail": str(self)}


class ResumePoint(msgspec.Struct, frozen=True):
    """The id of an event: which stream it belongs to, in which process, and how much of it the reader has then.

    Args:
        stream_id: names the stream.
        place: names the process that runs it.
        offset: commit offset: so many chunks were committed up to and with this event; None after `eos`.

    Example:
        >>> point = ResumePoint("018f", "a1b2", 7)
        >>> str(point), ResumePoint.parse("018f.a1b2:7") == point
        ('018f.a1b2:7', True)
    """

    stream_id: str
    place: str
    offset: int | None

    def __str__(self) -> str:
        return f"{self.prefix}{_END if self.offset is None else self.offset}"

    @property
    def prefix(self) -> str:
        """What all ids of a stream begin with."""
        return f"{self.stream_id}.{self.place}:"

    @classmethod
    def parse(cls, text: str) -> ResumePoint:
        """Read what a reader sends as `Last-Event-ID`.

        Raises:
            ResumeError: `MALFORMED`, when it is nothing that `str()` of a point gives.
        """
        name, colon, said = text.rpartition(":") if len(text) <= _LONGEST else ("", "", "")
        stream_id, dot, place = name.rpartition(".")
        number = said.isascii() and said.isdigit() and len(said) <= _DIGITS
        if not (colon and dot and stream_id and place and (number or said == _END)):
            raise ResumeError(
                Refusal.MALFORMED,
                "Last-Event-ID is not the id of an event of a stream; send back the last id unchanged",
            )
        return cls(stream_id, place, int(said) if number else None)


class Replay:
    """The last chunks of one stream, bounded in bytes and in number; what falls out cannot be resumed.

    Invariant: it holds the chunks from `first` to `end`, without a gap; both only grow.
    Invariant: at most `max_bytes` bytes of chunks and `max_chunks` chunks are held.

    Args:
        max_bytes: bytes of chunks held, at most.
        max_chunks: chunks held, at most.

    Raises:
        UsageError: when a bound is less than 1.

    Example:
        >>> replay = Replay(max_chunks=2)
        >>> replay.record(0, ["never ", "again", "!"])
        >>> replay.since(1), replay.first, replay.end
        (['again', '!'], 1, 3)
    """

    __slots__ = ("_chunks", "_max_bytes", "_max_chunks", "first", "held_bytes")

    def __init__(
        self, max_bytes: int = DEFAULT_MAX_BYTES, max_chunks: int = DEFAULT_MAX_CHUNKS
    ) -> None:
        for name, bound in (("max_bytes", max_bytes), ("max_chunks", max_chunks)):
            given: object = bound
            if not isinstance(given, int) or isinstance(given, bool) or given < 1:
                raise UsageError(f"{name}={bound!r} was given; it is a whole number of at least 1")
        self._chunks: deque[AnyChunk] = deque()
        self._max_bytes = max_bytes
        self._max_chunks = max_chunks
        self.first = 0
        """Commit offset before the oldest chunk held: from here on a reader may resume."""
        self.held_bytes = 0

    @property
    def end(self) -> int:
        """Commit offset after the newest chunk."""
        return self.first + len(self._chunks)

    def record(self, offset: int, chunks: Sequence[AnyChunk]) -> None:
        """Keep chunks that are sent now; those that are known stay.

        Args:
            offset: how many chunks of the stream came before them.
            chunks: in order.

        Raises:
            UsageError: when chunks between `end` and `offset` were left out.
        """
        known = self.end - offset
        if known < 0:
            raise UsageError(
                f"record({offset}) was called with {self.end} chunks recorded; record each chunk, in order"
            )
        fresh = chunks[known:] if known else chunks
        self._chunks.extend(fresh)
        self.held_bytes += sum(map(buffer_size, fresh))
        while self.held_bytes > self._max_bytes or len(self._chunks) > self._max_chunks:
            self.held_bytes -= buffer_size(self._chunks.popleft())
            self.first += 1

    def since(self, offset: int) -> list[AnyChunk]:
        """The chunks after the first `offset`, as far as they were recorded.

        Raises:
            ResumeError: `DROPPED` or `BEYOND`, when they are not, or never were, here.
        """
        if offset < self.first:
            raise ResumeError(
                Refusal.DROPPED,
                f"chunks from {offset} on were asked for; the buffer begins at {self.first}: ask for the answer anew",
            )
        if offset > self.end:
            raise ResumeError(
                Refusal.BEYOND,
                f"chunks from {offset} on were asked for, and only {self.end} were sent; send back the last id",
            )
        return list(self._chunks)[offset - self.first :]
