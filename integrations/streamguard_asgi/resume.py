"""`Resume`: the streams whose readers may come back, and what is kept for them."""

from __future__ import annotations

import inspect
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from streamguard_asgi._starlette import ASGIScope, Receive, Request, Send
from streamguard_asgi.kept import KeptStream
from streamguard_asgi.stream_routes import routes
from streamguard_core import Cause, DisconnectPolicy, Rule, StreamSession, UsageError, grace
from streamguard_core.replay import (
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_CHUNKS,
    Refusal,
    Replay,
    ResumeError,
    ResumePoint,
)

Owner = Callable[[Request], str | Awaitable[str]]
"""Says whose a request is: a user's or a session's id."""

_MAX_ENDED: Final = 1000


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a wish to stop a stream.

    Args:
        stream_id: names the stream.
        stopped: this wish ended it; False where it had ended before: then nothing has changed.
        cause: why it ended.
    """

    stream_id: str
    stopped: bool
    cause: str


class Resume:
    """Keeps streams for readers who lose their connection and come back within a window.

    Give one object to `guard_stream(resume=...)`, and mount it (`app.mount("/streams", resume)`) for
    the stop button: `POST /streams/{stream_id}/stop`. All of it lives in this process.

    Args:
        window: how long a stream waits for its reader, and is kept after its end, in seconds.
        max_bytes: how much of each stream can be sent again, in bytes of chunks; what a reader
            missed beyond that is refused (410).
        max_chunks: the same, in chunks.
        max_ended: how many streams that have ended are kept, at most; the oldest go first.
        owner: says whose a request is. Only the same owner may resume or stop a stream; without it
            whoever knows the stream's id may.
        retry: the hint to readers how long to wait before they reconnect, in seconds.

    Raises:
        UsageError: for a bound that is out of range.

    Example:
        >>> from streamguard_asgi import guard_stream
        >>> resume = Resume(window=30, owner=lambda request: request.headers["x-user"])
        >>> @guard_stream(resume=resume)
        ... async def chat():
        ...     yield "never again from the start"
    """

    def __init__(
        self,
        *,
        window: float = 30.0,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_chunks: int = DEFAULT_MAX_CHUNKS,
        max_ended: int = _MAX_ENDED,
        owner: Owner | None = None,
        retry: float = 1.0,
    ) -> None:
        if not retry >= 0 or max_ended < 0:
            raise UsageError(
                f"Resume was given retry={retry!r} and max_ended={max_ended!r}; neither is negative"
            )
        Replay(max_bytes, max_chunks)
        self.policy: DisconnectPolicy = grace(window)
        """What the streams' sessions are built with."""
        self.window = window
        self._bounds = (max_bytes, max_chunks)
        self._max_ended = max_ended
        self._owner = owner
        self._retry_ms = round(retry * 1000)
        self._routes = routes(self)
        self._pid, self._place = 0, ""
        self._streams: dict[str, KeptStream] = {}
        self._ended: dict[str, KeptStream] = {}
        """Those of them that have ended, the oldest first."""

    def __repr__(self) -> str:
        return f"<Resume window={self.window:g}s, {len(self._streams)} streams>"

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer what is sent to the address that this is mounted at."""
        await self._routes(scope, receive, send)

    @property
    def place(self) -> str:
        """Names this process in the ids of events; a forked one has another name, and none of the streams."""
        if self._pid != os.getpid():
            self._pid, self._place = os.getpid(), secrets.token_hex(4)
            self._streams, self._ended = {}, {}
        return self._place

    def check(self, options: dict[str, Any]) -> None:
        """See that a session's own policy waits for its reader.

        Raises:
            UsageError: when it does not.
        """
        policy = options.get("on_disconnect", self.policy)
        if not isinstance(policy, DisconnectPolicy) or policy.rule is not Rule.GRACE:
            raise UsageError(
                "resume was given together with an on_disconnect that does not wait for the reader;"
                " leave it out, or use grace(seconds, max_tokens)"
            )

    async def owner_of(self, request: Request) -> str:
        """Whose a request is; nobody's in particular without `owner`."""
        if self._owner is None:
            return ""
        owner = self._owner(request)
        said: object = await owner if inspect.isawaitable(owner) else owner
        if not isinstance(said, str):
            raise UsageError(
                f"owner returned a {type(said).__name__}; it returns a text that names the user"
            )
        return said

    async def keep(self, session: StreamSession, request: Request) -> KeptStream:
        """From now on the reader of `session` may come back.

        Raises:
            UsageError: when its id cannot stand in an event.
        """
        owner = await self.owner_of(request)
        name = session.stream_id
        if not (name.isascii() and name.isprintable()):
            raise UsageError(f"stream_id={name!r} cannot stand in an event; use printable ASCII")
        point = ResumePoint(name, self.place, 0)
        kept = KeptStream(session, point, owner, request.url.path, Replay(*self._bounds))
        self._streams[name] = kept
        kept.forget = lambda: self._forget(kept)
        kept.ended = lambda: self._has_ended(kept)
        return kept

    def opening(self, point: ResumePoint) -> bytes:
        """What a response begins with: from its first byte on a reader can resume, not only from its first chunk."""
        return f"id: {point}\nretry: {self._retry_ms}\n\n".encode()

    async def find(self, point: ResumePoint, request: Request) -> KeptStream:
        """The stream that a reader wants to continue.

        Raises:
            ResumeError: when it is not here, or not this reader's.
        """
        kept = await self.find_owned(point.stream_id, point.place, request)
        if kept.path != request.url.path:
            raise ResumeError(
                Refusal.NOT_YOURS, "this stream was opened at another address; resume it there"
            )
        return kept

    async def find_owned(self, stream_id: str, place: str, request: Request) -> KeptStream:
        """The stream of that id, if it belongs to whom the request comes from.

        Raises:
            ResumeError: when it is not here, or not his.
        """
        here = self.place
        if place and place != here:
            raise ResumeError(
                Refusal.ELSEWHERE,
                "this stream was opened in another process than the one that was reached; send a reader's requests"
                " to one process (sticky sessions). If that process has ended, ask for the answer anew",
            )
        owner = (await self.owner_of(request)).encode()
        kept = self._streams.get(stream_id)
        if kept is None:
            raise ResumeError(
                Refusal.UNKNOWN,
                f"no such stream is kept here: it ended more than {self.window:g} s ago, or never was, or its"
                " process is another; ask for the answer anew",
            )
        if not secrets.compare_digest(owner, kept.owner.encode()):
            raise ResumeError(Refusal.NOT_YOURS, "this stream belongs to somebody else")
        return kept

    async def stop(self, stream_id: str, request: Request) -> Stopped:
        """End a stream now, because its reader wants to (`USER_CANCEL`); one that has ended stays as it is.

        Args:
            stream_id: of the stream, as its response's header `streamguard-stream-id` says; or what
                stands before the colon in the ids of its events, which names the process as well.
            request: says who wants it.

        Raises:
            ResumeError: when the stream is unknown here, or not the reader's: nothing is stopped.
        """
        name, dot, place = stream_id.rpartition(".")
        kept = await self.find_owned(name if dot else stream_id, place if dot else "", request)
        session = kept.session
        live = session.cause is None
        session.cancel("the reader stopped it")
        cause = session.cause
        return Stopped(
            stream_id=session.stream_id,
            stopped=live and cause is Cause.USER_CANCEL,
            cause=str(cause),
        )

    def _has_ended(self, kept: KeptStream) -> None:
        if kept.point.stream_id in self._ended:
            return
        self._ended[kept.point.stream_id] = kept
        kept.retire(self.window)
        while len(self._ended) > self._max_ended:
            self._forget(next(iter(self._ended.values())))

    def _forget(self, kept: KeptStream) -> None:
        kept.stop_timer()
        for streams in (self._streams, self._ended):
            if streams.get(kept.point.stream_id) is kept:
                del streams[kept.point.stream_id]
