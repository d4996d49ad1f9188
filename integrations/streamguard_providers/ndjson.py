"""Lines of newline-delimited JSON from bytes, in linear time and bounded memory."""

from __future__ import annotations

from streamguard_core import UsageError
from streamguard_providers.errors import EventTooLarge
from streamguard_providers.sse import MAX_EVENT_BYTES, is_whole


class NDJSONDecoder:
    r"""Turns the bytes of a stream into lines; a line ends at LF only, blank lines are nothing.

    Args:
        max_line_bytes: largest line.

    Raises:
        UsageError: when the limit is not positive.

    Example:
        >>> NDJSONDecoder().feed(b'{"a":1}\r\n\n{"b":')
        [b'{"a":1}']
    """

    __slots__ = ("_closed", "_max", "_started", "_tail", "offset", "truncated", "unterminated")

    def __init__(self, max_line_bytes: int = MAX_EVENT_BYTES) -> None:
        if max_line_bytes < 1:
            raise UsageError(f"max_line_bytes={max_line_bytes} was given; it is at least 1")
        self._max = max_line_bytes
        self._tail = bytearray()
        self._started = False
        self._closed = False
        self.offset = 0
        self.unterminated = False
        """The last line had no LF and was handed over all the same."""
        self.truncated = False
        """The stream ended within a line, which was dropped."""

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<{type(self).__name__} {state}, {self.offset} bytes>"

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in and return the lines they complete, without their ends.

        Raises:
            EventTooLarge: when a line passes the limit; the decoder is closed then.
            UsageError: when the decoder is closed.
        """
        if self._closed:
            raise UsageError(
                "feed() is not allowed after close() or EventTooLarge: make a new decoder"
            )
        self.offset += len(data)
        end = data.rfind(b"\n") + 1
        if not end:
            self._keep(data)
            return []
        whole = data[:end]
        if self._tail:
            self._tail += whole
            whole = bytes(self._tail)
            self._tail.clear()
        if end < len(data):
            self._keep(data[end:])
        return self._lines(whole)

    def close(self) -> list[bytes]:
        """The stream has ended: return the last line if it is complete but for its end."""
        if self._closed:
            return []
        self._closed = True
        rest = self._without_bom(bytes(self._tail)).strip()
        self._tail.clear()
        if not rest:
            return []
        self.unterminated = is_whole(rest)
        self.truncated = not self.unterminated
        return [rest] if self.unterminated else []

    def _lines(self, whole: bytes) -> list[bytes]:
        lines = []
        for line in self._without_bom(whole).split(b"\n"):
            stripped = line.strip()
            if not stripped:
                continue
            if len(line) > self._max:
                self._refuse()
            lines.append(stripped)
        return lines

    def _without_bom(self, whole: bytes) -> bytes:
        if self._started:
            return whole
        self._started = True
        return whole.removeprefix(b"\xef\xbb\xbf")

    def _keep(self, data: bytes) -> None:
        self._tail += data
        if len(self._tail) > self._max:
            self._refuse()

    def _refuse(self) -> None:
        self._closed = True
        self._tail.clear()
        raise EventTooLarge(self._max, self.offset)
