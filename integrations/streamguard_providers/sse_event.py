"""One server-sent event."""

from __future__ import annotations

import msgspec


class SSEEvent(msgspec.Struct, frozen=True, gc=False):
    """One dispatched event, as bytes; decoding is left to whoever needs text.

    Args:
        data: the data lines joined with LF.
        event: the event's name; empty where the standard says `message`.
        id: the last event id at dispatch; it persists from event to event.
        retry: the reconnection time this event's block set, in milliseconds.
    """

    data: bytes
    event: bytes = b""
    id: bytes = b""
    retry: int | None = None

    @property
    def type(self) -> str:
        """The event's name, `message` where it has none."""
        return self.event.decode("utf-8", "replace") or "message"

    @property
    def text(self) -> str:
        """The data as text; invalid UTF-8 becomes U+FFFD."""
        return self.data.decode("utf-8", "replace")
