"""Server-sent events from bytes, as the WHATWG standard reads them: linear time, bounded memory.

Sans-I/O: bytes in, events out. Three things go beyond the standard, for the sake of LLM streams: a
last event without its blank line is handed over at the end of the stream if its data is one whole
JSON object; comments and unknown fields are counted; and a field named `error`, in which some
servers report a failure, is handed over as an event of that name.
"""

from __future__ import annotations

from typing import Final, NoReturn

from streamguard_providers.framing import BOM, MAX_EVENT_BYTES, Framing, fed_after_close, is_whole
from streamguard_providers.sse_event import SSEEvent

#: As numbers: to look for a byte is several times faster than to look for bytes of length one.
_LF: Final = 10
_CR: Final = 13
_COLON: Final = 58
_DATA: Final = b"data: "
_EVENT: Final = b"event: "
_END: Final = b"\n\n"
_CRLF_END: Final = b"\r\n\r\n"
_NEXT_EVENT: Final = _END + _EVENT
_NEXT_DATA: Final = b"\n" + _DATA
#: How much of an unfinished block is kept as it is; a longer one is read line by line.
_MAX_REST: Final = 4096
_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b"error:")
_LONGEST_FIELD: Final = 6
_MAX_SAMPLE: Final = 64
_MAX_DIGITS: Final = 18


_Like = tuple[bytes, bytes, bytes, bytes]
"""How a block of one data line reads: what stands before the data, the name in that, what ends the
block, and what comes between the data of two such blocks."""
_DATA_ONLY: Final[_Like] = (_DATA, b"", _END, _END + _DATA)


class SSEDecoder(Framing):
    r"""Turns the bytes of a stream into events; how the bytes are cut makes no difference.

    Args:
        max_event_bytes: largest event (all its lines together) and largest unfinished line.
        strict: leave out what goes beyond the standard: drop a last event without its blank line,
            and fields named `error`.

    Raises:
        UsageError: when the limit is not positive.

    Example:
        >>> decoder = SSEDecoder()
        >>> [event.data for event in decoder.feed(b"data: a\n\ndata: b")]
        [b'a']
    """

    __slots__ = (
        "_at_block",
        "_block_retry",
        "_data",
        "_discarding",
        "_event",
        "_has_data",
        "_id",
        "_like",
        "_max_rest",
        "_open",
        "_rest",
        "_size",
        "_skip_lf",
        "_start",
        "_strict",
        "comments",
        "last_event_id",
        "retry",
        "unknown_fields",
        "unknown_sample",
    )

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES, *, strict: bool = False) -> None:
        super().__init__(max_event_bytes, "max_event_bytes")
        self._like = _DATA_ONLY
        self._max_rest = min(_MAX_REST, max_event_bytes)
        self._strict = strict
        self._at_block = False
        """Nothing of a block has been read yet, but for `_rest`."""
        self._start: bytes | None = b""
        """What may still become a byte order mark; None once that is decided."""
        self._skip_lf = False
        self._rest = b""
        """The beginning of a block that is not being read line by line yet; no CR is in it."""
        self._discarding = False
        """The unfinished line is a comment or an unknown field: it need not be kept."""
        self._open = False
        """The current block has had a line."""
        self._size = 0
        self._data = bytearray()
        self._has_data = False
        self._event = b""
        self._id = b""
        self._block_retry: int | None = None
        self.last_event_id = b""
        self.retry: int | None = None
        self.comments = 0
        self.unknown_fields = 0
        self.unknown_sample = b""
        """The beginning of the first line that was no field of the standard."""

    def feed(self, data: bytes) -> list[SSEEvent]:
        """Take bytes in and return the events they complete.

        Raises:
            EventTooLarge: when an event passes the limit; the decoder is closed then.
            UsageError: when the decoder is closed.
        """
        self.offset += len(data)
        events: list[SSEEvent] = []
        if not self._at_block:
            data = self._rest_of_block(data, events)
        if self._rest:
            data = self._rest + data
            self._rest = b""
        rest = self._alike(data, events)
        if rest is data and (_END in data or _CR in data):
            rest = self._unlike(data, events)
        if rest:
            # Behind blocks that end in CRLF, one that ends in LF may be whole.
            mixed = _LF in rest and self._like[2] != _END
            if mixed or len(rest) > self._max_rest or _CR in rest:
                self._lines(rest, events)
                self._look()
            else:
                self._rest = rest
        return events

    def close(self) -> list[SSEEvent]:
        """The stream has ended: return the last event if it is complete but for its blank line."""
        if self._closed:
            return []
        if self._start:
            self._keep(self._start)
        events: list[SSEEvent] = []
        if self._rest:
            self._lines(self._rest, events)
            self._rest = b""
        self._closed = True
        self._at_block = False
        line = bytes(self._tail)
        self._tail.clear()
        pending = self._open or bool(line)
        if line and not self._discarding:
            self._field(line, events)
        if not self._strict and self._has_data and is_whole(bytes(self._data[:-1])):
            self.unterminated = True
            self._dispatch(events)
        elif pending:
            self.truncated = True
        return events

    # -- blocks ------------------------------------------------------------------------------------

    def _alike(self, data: bytes, events: list[SSEEvent]) -> bytes:
        """Read blocks that are like the last one; nearly all of them are.

        Returns what is left to be read: the beginning of one more block, or everything.
        """
        head, name, end_mark, next_mark = self._like
        end = data.rfind(end_mark) if data.startswith(head) else -1
        if end < 0 or end > self._max:
            return data
        parts = data[len(head) : end].split(next_mark)
        # To look at all at once is several times faster than to count.
        joined = b"".join(parts)
        if _CR in joined:
            return data
        last = self._id
        if _LF in joined:
            mixed = _mixed(parts, name, last)
            if not mixed:
                return data
            events += mixed
        elif name or last:
            for part in parts:
                events.append(SSEEvent(part, name, last))
        else:
            events += map(SSEEvent, parts)
        return data[end + len(end_mark) :]

    def _unlike(self, data: bytes, events: list[SSEEvent]) -> bytes:
        """Read whole blocks of which the first is not like the last one; returns what is left to be read."""
        like = _like(data)
        if like is not None and like != self._like:
            self._like = like
            rest = self._alike(data, events)
            if rest is not data:
                return rest
        self._lines(data, events)
        self._look()
        return b""

    def _rest_of_block(self, data: bytes, events: list[SSEEvent]) -> bytes:
        """Read the block that has been begun to its end; returns what comes after it."""
        if self._closed:
            raise fed_after_close()
        if self._start is not None:
            data = self._without_bom(data)
            if self._start is not None:
                return b""
        elif data:
            end = _end_of_block(data)
            self._lines(data[:end], events)
            data = data[end:]
        self._look()
        return data

    def _look(self) -> None:
        self._at_block = not (self._open or self._tail or self._discarding or self._skip_lf)

    # -- lines -------------------------------------------------------------------------------------

    def _lines(self, data: bytes, events: list[SSEEvent]) -> None:
        """Read what may begin or end anywhere, line by line."""
        if self._skip_lf and data:
            self._skip_lf = False
            if data[0] == _LF:
                data = data[1:]
        if _CR in data:
            # A CR ends its line at once; the LF that may follow in the next piece belongs to it.
            self._skip_lf = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        end = data.rfind(b"\n") + 1
        if not end:
            if data:
                self._keep(data)
            return
        whole = data[:end]
        if self._discarding:
            # The rest of the line goes, with its end: ignored lines leave no trace.
            self._discarding = False
            whole = whole[whole.index(b"\n") + 1 :]
        elif self._tail:
            whole = self._joined(whole)
        self._parse(whole, events)
        if end < len(data):
            self._keep(data[end:])

    def _parse(self, whole: bytes, events: list[SSEEvent]) -> None:
        """Read complete lines."""
        for line in whole.split(b"\n")[:-1]:
            if line:
                self._field(line, events)
            else:
                self._dispatch(events)

    def _field(self, line: bytes, events: list[SSEEvent]) -> None:
        name, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if name == b"data":
            self._take(line)
            self._data += value
            self._data += b"\n"
            self._has_data = True
        elif name == b"event":
            self._take(line)
            self._event = value
        elif name == b"id":
            self._take(line)
            if b"\0" not in value:
                self._id = value
        elif name == b"retry":
            self._take(line)
            self._set_retry(value)
        else:
            self._ignore(line)
            if name == b"error" and value and not self._strict:
                events.append(SSEEvent(value, b"error", self.last_event_id))

    def _take(self, line: bytes) -> None:
        self._open = True
        self._size += len(line) + 1
        if self._size > self._max:
            self._refuse()

    def _set_retry(self, value: bytes) -> None:
        # bytes.isdigit() knows ASCII digits only. An absurd number of them is no time.
        digits = value.lstrip(b"0") or value[-1:]
        if value.isdigit() and len(digits) <= _MAX_DIGITS:
            self.retry = self._block_retry = int(digits)

    def _ignore(self, line: bytes) -> None:
        """A comment, or a field the standard does not know."""
        if line.startswith(b":"):
            self.comments += 1
            return
        self.unknown_fields += 1
        if not self.unknown_sample:
            self.unknown_sample = line[:_MAX_SAMPLE]

    def _dispatch(self, events: list[SSEEvent]) -> None:
        """A blank line: hand over the block if it has data, and begin a new one."""
        self.last_event_id = self._id
        if self._has_data:
            self._data.pop()
            events.append(SSEEvent(bytes(self._data), self._event, self._id, self._block_retry))
            self._data = bytearray()
            self._has_data = False
        self._open = False
        self._size = 0
        self._event = b""
        self._block_retry = None

    # -- pieces of lines ---------------------------------------------------------------------------

    def _without_bom(self, data: bytes) -> bytes:
        """Strip one leading byte order mark, which may come in three pieces."""
        start = (self._start or b"") + data
        if len(start) < len(BOM) and BOM.startswith(start):
            self._start = start
            return b""
        self._start = None
        return start.removeprefix(BOM)

    def _keep(self, piece: bytes) -> None:
        """Keep a piece of an unfinished line, unless the line is known to be nothing."""
        if self._discarding:
            return
        tail = self._tail
        judged = len(tail) >= _LONGEST_FIELD
        tail += piece
        if not judged and (
            tail[0] == _COLON or (len(tail) >= _LONGEST_FIELD and not tail.startswith(_FIELDS))
        ):
            self._discard()
        elif self._size + len(tail) > self._max:
            if not tail.startswith(b"error:"):
                self._refuse()
            self._discard()

    def _discard(self) -> None:
        self._ignore(bytes(self._tail[:_MAX_SAMPLE]))
        self._tail.clear()
        self._discarding = True

    def _refuse(self) -> NoReturn:
        self._at_block = False
        self._rest = b""
        self._data.clear()
        super()._refuse()


def _mixed(parts: list[bytes], name: bytes, last: bytes) -> list[SSEEvent]:
    """The events of parts that hold blocks with other names, too; none where there is anything else in them."""
    events: list[SSEEvent] = []
    for part in parts:
        if _LF not in part:
            events.append(SSEEvent(part, name, last))
            continue
        first, *others = part.split(_NEXT_EVENT)
        if _LF in first:
            return []
        events.append(SSEEvent(first, name, last))
        for other in others:
            own, found, data = other.partition(_NEXT_DATA)
            if not found or _LF in own or _LF in data:
                return []
            events.append(SSEEvent(data, own, last))
    return events


def _like(data: bytes) -> _Like | None:
    """How the first block of `data` reads, if that is a data line, alone or behind a name."""
    first, _, _ = data.partition(b"\n")
    line_end = b"\r\n" if first.endswith(b"\r") else b"\n"
    name, head = b"", _DATA
    if first.startswith(_EVENT):
        name = first[len(_EVENT) :].removesuffix(b"\r")
        head = _EVENT + name + line_end + _DATA
    if _CR in name or not data.startswith(head):
        return None  # a CR alone ends a line, too
    end_mark = line_end * 2
    return head, name, end_mark, end_mark + head


def _end_of_block(data: bytes) -> int:
    """Where the first block that ends in `data` does so; all of it where none does."""
    end = data.find(_END)
    if end >= 0:
        return end + 2
    end = data.find(_CRLF_END)
    return end + 4 if end >= 0 else len(data)
