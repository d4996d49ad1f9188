"""What the framings have in common: their limit, what they say of the end, what is unfinished."""

from __future__ import annotations

from typing import Final, NoReturn

import msgspec

from streamguard_core import UsageError
from streamguard_providers.errors import EventTooLarge

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
BOM: Final = b"\xef\xbb\xbf"


class Framing:
    """Cuts the bytes of one response into payloads; a framing adds `feed` and `close`.

    Args:
        limit: bytes of the largest payload, and of the largest unfinished one.
        keyword: what the limit is called where it is given.

    Raises:
        UsageError: when the limit is not positive.
    """

    __slots__ = ("_closed", "_max", "_tail", "offset", "truncated", "unterminated")

    def __init__(self, limit: int, keyword: str) -> None:
        if limit < 1:
            raise UsageError(f"{keyword}={limit} was given; it is at least 1")
        self._max = limit
        self._tail = bytearray()
        """The unfinished line or item."""
        self._closed = False
        self.offset = 0
        """How many bytes have been taken in."""
        self.unterminated = False
        """What ends the last event or line, or the array, was missing; all was handed over."""
        self.truncated = False
        """The stream ended within an event, a line or an item, which was dropped."""

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<{type(self).__name__} {state}, {self.offset} bytes>"

    def _keep(self, piece: bytes) -> None:
        """Keep a piece of what is unfinished."""
        self._tail += piece
        if len(self._tail) > self._max:
            self._refuse()

    def _joined(self, piece: bytes) -> bytes:
        """Complete what is unfinished with what has come."""
        self._tail += piece
        joined = bytes(self._tail)
        self._tail.clear()
        return joined

    def _refuse(self) -> NoReturn:
        """The limit was passed: take nothing in any more, and keep nothing."""
        self._closed = True
        self._tail.clear()
        raise EventTooLarge(self._max, self.offset)


def fed_after_close() -> UsageError:
    """The error for bytes that a framing is given when it is closed."""
    return UsageError("feed() is not allowed after close() or EventTooLarge: make a new decoder")


def is_whole(data: bytes) -> bool:
    """True for the data of a complete LLM event: one whole JSON object or array, or `[DONE]`."""
    data = data.strip()
    if data == b"[DONE]":
        return True
    if not data.startswith((b"{", b"[")):
        return False  # a number or a word may have been cut anywhere and still look whole
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return True
