"""Lines of newline-delimited JSON from bytes, in linear time and bounded memory."""

from __future__ import annotations

from streamguard_providers.framing import BOM, MAX_EVENT_BYTES, Framing, fed_after_close, is_whole


class NDJSONDecoder(Framing):
    r"""Turns the bytes of a stream into lines; a line ends at LF only, blank lines are nothing.

    Args:
        max_line_bytes: largest line.

    Raises:
        UsageError: when the limit is not positive.

    Example:
        >>> NDJSONDecoder().feed(b'{"a":1}\r\n\n{"b":')
        [b'{"a":1}']
    """

    __slots__ = ("_started",)

    def __init__(self, max_line_bytes: int = MAX_EVENT_BYTES) -> None:
        super().__init__(max_line_bytes, "max_line_bytes")
        self._started = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in and return the lines they complete, without their ends.

        Raises:
            EventTooLarge: when a line passes the limit; the decoder is closed then.
            UsageError: when the decoder is closed.
        """
        if self._closed:
            raise fed_after_close()
        self.offset += len(data)
        end = data.rfind(b"\n") + 1
        if not end:
            self._keep(data)
            return []
        whole = data[:end]
        if self._tail:
            whole = self._joined(whole)
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
        return whole.removeprefix(BOM)
