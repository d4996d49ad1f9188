"""Counts the chunks of a response from the bytes that an application sends."""

from __future__ import annotations

import logging
from typing import Final

from streamguard_core.decoding import Decoder

BEHIND_COLON: Final = b";"
"""Bytes that are not less than this begin neither a comment of server-sent events nor a blank."""
_COLON: Final = ord(":")

logger = logging.getLogger("streamguard")


class Tally:
    """Counts what a provider's format says, once that is recognised; until then, and without, the sends.

    Args:
        decoder: reads provider formats.
        events: whether the response is one of server-sent events, whose comments are no chunks.
    """

    __slots__ = ("_decoder", "_events", "_unread", "plain", "recognised")

    def __init__(self, decoder: Decoder | None, *, events: bool) -> None:
        self._decoder = decoder
        self._events = events
        self.plain = decoder is None
        """Each send from `BEHIND_COLON` on is a chunk, whoever counts it."""
        self._unread = 0
        """Sends of which it is not known yet whether the format is one that the decoder knows."""
        self.recognised = False

    def take(self, body: bytes | bytearray | memoryview) -> int:
        """How many chunks more are known to have been sent, now that these bytes were; there is at least one."""
        if type(body) is not bytes:
            body = bytes(body)
        if self._decoder is None:
            return self._sends(body)
        try:
            chunks = len(self._decoder.feed(body))
        except Exception as error:  # noqa: BLE001 - a format that it cannot read is the application's own
            logger.info("a response could not be decoded: %s", type(error).__name__)
            self._decoder = None
            return self.rest() + (0 if self.recognised else self._sends(body))
        if not self.recognised and (chunks or self._decoder.done):
            self.recognised, self._unread = True, 0
        if not self.recognised:
            self._unread += self._sends(body)
        return chunks

    def rest(self) -> int:
        """What was sent and not counted: the format is not one that the decoder knows."""
        unread, self._unread = self._unread, 0
        return unread

    def close(self) -> int:
        """The response is complete: how many chunks are known more."""
        if self._decoder is None:
            return self.rest()
        chunks = len(self._decoder.close())
        if chunks and not self.recognised:
            self.recognised, self._unread = True, 0
        return chunks + self.rest()

    @property
    def said(self) -> Decoder | None:
        """The decoder, if it has recognised what passes."""
        return self._decoder if self.recognised else None

    def _sends(self, body: bytes) -> int:
        if self._events and body[0] == _COLON:
            return int(any(line and not line.startswith(b":") for line in body.splitlines()))
        return 0 if body.isspace() else 1
