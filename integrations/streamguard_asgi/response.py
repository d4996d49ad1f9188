"""`GuardedResponse`: an ASGI response that ends with its reader, and never ends cleanly after a failure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Unpack

from streamguard_asgi._starlette import (
    ASGIScope,
    BackgroundTask,
    Receive,
    Request,
    Response,
    Send,
    StreamingResponse,
)
from streamguard_asgi.acknowledge import Acknowledge
from streamguard_asgi.answering import Answering
from streamguard_asgi.delivery import RawHeaders, Times
from streamguard_asgi.options import SessionOptions, check_seconds
from streamguard_asgi.producing import Mapped, close_producer, producer_of
from streamguard_asgi.request import RequestGuard, guard_in, new_guard
from streamguard_asgi.resume import Resume
from streamguard_core import StreamSession, UsageError
from streamguard_core.formats import (
    Events,
    Format,
    Raw,
    choose,
    form_of,
    id_header,
)
from streamguard_core.sse import PING

DEFAULT_PING: Final = 15.0
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_SSE_HEADERS: Final = {
    "cache-control": "no-store",
    "connection": "keep-alive",
    "x-accel-buffering": "no",
}


class GuardedResponse(Response):
    """Streams what a producer makes, as server-sent events unless the reader or the caller wants otherwise.

    Every stream ends with an explicit `eos` event that says why. What is ready together is sent
    together. Under `StreamGuardMiddleware` the reader's leaving is seen by that; alone, the
    response watches `receive` itself while it streams.

    Args:
        content: a `StreamSession`, or anything that one takes as a producer.
        status_code: of the response; a stream that failed before its response began answers with
            502, 503, 504 or 403 instead of 200.
        headers: further headers; they win over the format's own.
        media_type: see `StreamOptions`; None chooses by `Accept`.
        background: runs after the response, also when the reader has left.
        ping: see `StreamOptions`.
        consumer_stall: see `StreamOptions`.
        ids: see `StreamOptions`.
        resume: see `StreamOptions`; `content` is closed unread where a stream is continued.
        acknowledge: see `StreamOptions`.
        session: what the session is built with, if `content` is not one.

    Raises:
        UsageError: when a session's options are given for a session that is there already, or a
            time is not positive.

    Example:
        >>> async def words():
        ...     yield "never "
        ...     yield "again"
        >>> async def application(scope, receive, send):
        ...     await GuardedResponse(words())(scope, receive, send)
    """

    media_type: str | None = "text/event-stream"

    def __init__(
        self,
        content: Any = None,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        background: BackgroundTask | None = None,
        *,
        ping: float | None = DEFAULT_PING,
        consumer_stall: float | None = None,
        ids: bool = False,
        resume: Resume | None = None,
        acknowledge: Acknowledge | None = None,
        **session: Unpack[SessionOptions],
    ) -> None:
        check_seconds(ping=ping, consumer_stall=consumer_stall)
        if resume is not None and not isinstance(content, StreamSession):
            resume.check(dict(session))
        if isinstance(content, StreamSession) and session:
            raise UsageError(
                f"{', '.join(session)} were given for a session that is built already; give them to it"
            )
        self._content = content
        self._options = session
        self._form: Format | None = None
        if media_type is not None:
            self._form = form_of(media_type, 0 if ids else None)
        self._ids = ids
        self._resume = resume
        self.acknowledge = acknowledge
        self._ping = ping
        self._consumer_stall = consumer_stall
        self.status_code = status_code
        self.background = background
        # Left open, the content type is known when the reader's Accept is.
        self.media_type = media_type
        self.init_headers(headers)

    @classmethod
    def taking_over(cls, response: Response, **keywords: Any) -> GuardedResponse:
        """Stream the body of a `StreamingResponse` in its place: bytes, status, headers, background as they are.

        Args:
            response: any response with a `body_iterator`.
            keywords: as for `GuardedResponse`.
        """
        producer = producer_of(response)
        guarded = cls(producer, response.status_code, background=response.background, **keywords)
        guarded._form = Raw(PING if isinstance(producer, Mapped) else b"")
        guarded.raw_headers = response.raw_headers
        return guarded

    def carry(
        self,
        session: StreamSession,
        resume: Resume | None = None,
        acknowledge: Acknowledge | None = None,
    ) -> GuardedResponse:
        """Stream through `session`, which was opened before the producer was there.

        Args:
            session: is given what this response streams.
            resume: keeps the stream for its reader, unless the response has said so itself.
            acknowledge: takes its reader's acknowledgements, unless the response has said so itself.

        Raises:
            UsageError: when the response has options for a session of its own.
        """
        self._resume = self._resume or resume
        self.acknowledge = self.acknowledge or acknowledge
        if self._options:
            raise UsageError(
                f"{', '.join(self._options)} were given to a GuardedResponse under guard_stream, which has opened"
                " the session already; give them to guard_stream"
            )
        if self._content is not None:
            session.attach(self._content)
        self._content = session
        return self

    @property
    def content(self) -> Any:
        """What is streamed: a session, or a producer that has none yet."""
        return self._content

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            UsageError: for anything but an http scope.
        """
        if scope["type"] != "http":
            raise UsageError(
                f"GuardedResponse was called for a {scope['type']} scope; it answers http only"
            )
        form = self._form_for(scope)
        if scope["method"] == "HEAD":
            await self._answer_head(form, send)
        else:
            guard = guard_in(scope) or new_guard(scope, RequestGuard())
            request = Request(scope, receive)
            await Answering(self, guard, request, send).run(form, self.resumes(scope))
        if self.background is not None:
            await self.background()

    def resumes(self, scope: ASGIScope) -> Resume | None:
        """What keeps the stream of this request: only server-sent events can be continued."""
        return self._resume if isinstance(self._form_for(scope), Events) else None

    def _form_for(self, scope: ASGIScope) -> Format:
        form = self._form or choose(_accepted(scope), 0 if self._ids else None)
        # What is acknowledged has a number.
        return Events(0) if self.acknowledge is not None and isinstance(form, Events) else form

    async def _answer_head(self, form: Format, send: Send) -> None:
        """Headers as for GET; nothing is generated, and what was opened already is closed."""
        headers = self.headers_for(form, None)
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        if self._content is not None:
            await close_producer(self._content)

    def times(self, guard: RequestGuard) -> Times:
        """The times that its deliveries keep.

        Args:
            guard: of the request, whose times hold where this response has none.
        """
        return {"ping": self._ping, "consumer_stall": self._consumer_stall or guard.consumer_stall}

    def session_for(self, guard: RequestGuard, **usual: Any) -> StreamSession:
        """The session that streams its content.

        Args:
            guard: of the request, whose ledger and prices hold where none were given.
            usual: options that hold where none were given.

        Raises:
            UsageError: when there is no content.
        """
        if isinstance(self._content, StreamSession):
            return self._content
        if self._content is None:
            raise UsageError(
                "a GuardedResponse without content was to be streamed; give it a producer"
            )
        options: dict[str, Any] = usual | self._options
        options.setdefault("ledger", guard.ledger)
        options.setdefault("prices", guard.prices)
        return StreamSession(self._content, **options)

    def headers_for(
        self, form: Format, stream_id: str | None, asking: Mapping[str, str] = _NOTHING
    ) -> RawHeaders:
        """The caller's headers first; what they leave open is the format's, and the stream's name.

        Args:
            form: how the stream looks on the wire.
            stream_id: its name; None where there is no stream.
            asking: what the reader is told besides.
        """
        named = {name for name, _ in self.raw_headers}
        ours: dict[str, str] = {}
        if not isinstance(form, Raw):
            ours = {"content-type": f"{form.media_type}; charset=utf-8"}
            ours |= _SSE_HEADERS if isinstance(form, Events) else {"cache-control": "no-store"}
            ours |= {"vary": "accept"} if self._form is None else {}
        ours |= id_header(stream_id)
        ours |= asking
        added = [(name.encode(), value.encode()) for name, value in ours.items()]
        return [*self.raw_headers, *(header for header in added if header[0] not in named)]


def _accepted(scope: ASGIScope) -> str:
    for name, value in scope["headers"]:
        if name == b"accept":
            accept: str = value.decode("latin-1")
            return accept
    return "*/*"


def is_streaming(response: object) -> bool:
    """True for Starlette's, FastAPI's and sse-starlette's streaming responses."""
    return isinstance(response, StreamingResponse) or (
        isinstance(response, Response) and hasattr(response, "body_iterator")
    )
