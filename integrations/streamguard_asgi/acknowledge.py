"""`Acknowledge`: the streams whose readers say what they have got."""

from __future__ import annotations

from streamguard_asgi._starlette import ASGIScope, Request
from streamguard_asgi.owned import Owned, Owner
from streamguard_asgi.stream_routes import acknowledge_route, routes
from streamguard_core import StreamSession
from streamguard_core.acknowledging import (
    ACKNOWLEDGE_HEADER,
    Acknowledged,
    AcknowledgedStreams,
)
from streamguard_core.keeping import DEFAULT_MAX_ENDED, Stopped


class Acknowledge(Owned, AcknowledgedStreams):
    """Takes readers' acknowledgements, which make `consumed` exact and a frozen reader visible at once.

    Give one object to `guard_stream(acknowledge=...)`, and mount it (`app.mount("/streams", acknowledge)`):
    `POST /streams/{stream_id}/acknowledged/{offset}`, `POST /streams/{stream_id}/stop`, and `GET /streams/reader.js`,
    which has a reader for pages. All of it lives in this process.

    A reader says that it acknowledges in the header `streamguard-acknowledge: 1`. One that does, and acknowledges
    nothing new for `consumer_stall` seconds while something is outstanding, is cut off as CONSUMER_STALLED, also if
    it never began to. One that does not say so is a reader as without this; unless acknowledging is `required`.

    Args:
        required: every reader of server-sent events is expected to acknowledge, whatever it says.
        owner: says whose a request is. Only the same owner may acknowledge or stop a stream; without it
            whoever knows the stream's id may.
        max_ended: of how many streams that have ended it is known what became of them; the oldest go
            first.

    Raises:
        UsageError: when `max_ended` is negative.

    Example:
        >>> from streamguard_asgi import guard_stream
        >>> acknowledge = Acknowledge(owner=lambda request: request.headers["x-user"])
        >>> @guard_stream(acknowledge=acknowledge, consumer_stall=30)
        ... async def chat():
        ...     yield "did you get it?"
    """

    def __init__(
        self,
        *,
        required: bool = False,
        owner: Owner | None = None,
        max_ended: int = DEFAULT_MAX_ENDED,
    ) -> None:
        AcknowledgedStreams.__init__(self, required=required, max_ended=max_ended)
        Owned.__init__(self, owner, routes(self, acknowledge_route(self)))

    async def expect(
        self,
        session: StreamSession,
        request: Request,
        stall: float | None,
        *,
        numbered: bool = True,
    ) -> dict[str, str]:
        """Know a stream, and expect acknowledgements if its reader gives them; returns headers for the reader.

        Args:
            session: the stream, before anything of it was sent.
            request: the reader's.
            stall: see `consumer_stall` of `StreamOptions`.
            numbered: the events have numbers that can be acknowledged.
        """
        expected = numbered and self.wants(_announced(request.scope))
        return self.begin(session, await self.owner_of(request), expected=expected, stall=stall)

    async def acknowledged(self, stream_id: str, offset: str, request: Request) -> Acknowledged:
        """The reader has every chunk up to a commit offset.

        Args:
            stream_id: of the stream, as its response's header `streamguard-stream-id` says; or what
                stands before the colon in the ids of its events.
            offset: the number in the id of an event.
            request: says who acknowledges.

        Raises:
            ResumeError: when it cannot be counted; nothing is changed.
        """
        return self.acknowledge_of(stream_id, await self.owner_of(request), offset)

    async def stop(self, stream_id: str, request: Request) -> Stopped:
        """End a stream now, because its reader wants to (`USER_CANCEL`); one that has ended stays as it is.

        Args:
            stream_id: see `acknowledged()`.
            request: says who wants it.

        Raises:
            ResumeError: when the stream is unknown here, or not the reader's: nothing is stopped.
        """
        return self.stop_of(stream_id, await self.owner_of(request))


def _announced(scope: ASGIScope) -> str | None:
    wanted = ACKNOWLEDGE_HEADER.encode()
    for name, value in scope["headers"]:
        if name == wanted:
            said: str = value.decode("latin-1").strip()
            return said
    return None
