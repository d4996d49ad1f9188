"""The keywords that `guard_stream` and `GuardedResponse` share."""

from __future__ import annotations

from typing import Final

import streamguard_core
from streamguard_asgi.acknowledge import Acknowledge
from streamguard_asgi.resume import Resume
from streamguard_core import UsageError


class SessionOptions(streamguard_core.SessionOptions, total=False):
    """What a stream's session is built with; see `streamguard_core.StreamSession`."""

    own_task: bool


class StreamOptions(SessionOptions, total=False):
    """The same, and how the stream is answered.

    Attributes:
        ping: longest silence in seconds before a keep-alive comment is sent; None for none.
        consumer_stall: longest time the server's `send` may stay blocked, in seconds; then the
            stream is cut off as `CONSUMER_STALLED`. None for the middleware's, `math.inf` for as
            long as the server lets it.
        ids: number the events with commit offsets.
        resume: keep the stream for a reader who loses its connection, and continue it there when it
            reconnects with `Last-Event-ID`. Only server-sent events can be resumed.
        acknowledge: take the acknowledgements of readers that give them: then `consumed` is what they have
            said that they have, and `consumer_stall` holds for their silence as well. Only server-sent
            events, which then are numbered, can be acknowledged.
        media_type: the format, whatever the reader accepts: `text/event-stream`,
            `application/x-ndjson`, `text/plain`; anything else is passed on as the bytes that the
            producer makes.
    """

    ping: float | None
    consumer_stall: float | None
    ids: bool
    resume: Resume | None
    acknowledge: Acknowledge | None
    media_type: str | None


RESPONSE_KEYS: Final = frozenset(
    ("ping", "consumer_stall", "ids", "media_type", "resume", "acknowledge")
)
"""Those of `StreamOptions` that are the response's, not the session's."""


def check_seconds(**given: float | None) -> None:
    """See that each of some times is one.

    Raises:
        UsageError: when one is neither positive nor None.
    """
    for name, seconds in given.items():
        if seconds is not None and not seconds > 0:
            raise UsageError(f"{name}={seconds!r} was given; it is a number of seconds, or None")
