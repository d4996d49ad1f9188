"""`Resume`: the streams whose readers may come back, and what is kept for them."""

from __future__ import annotations

from typing import Unpack

from streamguard_asgi._starlette import Request
from streamguard_asgi.owned import Owned, Owner
from streamguard_asgi.stream_routes import receipt_route, routes
from streamguard_core import StreamSession
from streamguard_core.keeping import KeepingOptions, KeptStreams, Stopped
from streamguard_core.kept import KeptStream
from streamguard_core.outcome import Outcome
from streamguard_core.replay import ResumePoint


class Resume(Owned, KeptStreams):
    """Keeps streams for readers who lose their connection and come back within a window.

    Give one object to `guard_stream(resume=...)`, and mount it (`app.mount("/streams", resume)`) for
    the stop button: `POST /streams/{stream_id}/stop`. All of it lives in this process.

    Args:
        owner: says whose a request is. Only the same owner may resume or stop a stream; without it
            whoever knows the stream's id may.
        options: `window`, `max_bytes`, `max_chunks`, `max_ended`, `retry`, as for `KeptStreams`: how long a
            stream waits for its reader, how much of it can be sent again, how many are kept after their end.

    Raises:
        UsageError: for a bound that is out of range.

    Example:
        >>> from streamguard_asgi import guard_stream
        >>> resume = Resume(window=30, owner=lambda request: request.headers["x-user"])
        >>> @guard_stream(resume=resume)
        ... async def chat():
        ...     yield "never again from the start"
    """

    def __init__(self, *, owner: Owner | None = None, **options: Unpack[KeepingOptions]) -> None:
        KeptStreams.__init__(self, **options)
        Owned.__init__(self, owner, routes(self, receipt_route(self)))

    async def keep(self, session: StreamSession, request: Request) -> KeptStream:
        """From now on the reader of `session` may come back.

        Raises:
            UsageError: when its id cannot stand in an event.
        """
        return self.keep_for(session, await self.owner_of(request), request.url.path)

    async def find(self, point: ResumePoint, request: Request) -> KeptStream:
        """The stream that a reader wants to continue.

        Raises:
            ResumeError: when it is not here, or not this reader's.
        """
        return self.find_at(point, await self.owner_of(request), request.url.path)

    async def outcome(self, stream_id: str, request: Request) -> Outcome:
        """How a stream ended, or that it goes on, for its reader; as long as it is kept.

        Args:
            stream_id: as for `stop()`.
            request: says who asks.

        Raises:
            ResumeError: when the stream is unknown here, or not the reader's.
        """
        return self.outcome_of(stream_id, await self.owner_of(request))

    async def stop(self, stream_id: str, request: Request) -> Stopped:
        """End a stream now, because its reader wants to (`USER_CANCEL`); one that has ended stays as it is.

        Args:
            stream_id: of the stream, as its response's header `streamguard-stream-id` says; or what
                stands before the colon in the ids of its events, which names the process as well.
            request: says who wants it.

        Raises:
            ResumeError: when the stream is unknown here, or not the reader's: nothing is stopped.
        """
        return self.stop_of(stream_id, await self.owner_of(request))
