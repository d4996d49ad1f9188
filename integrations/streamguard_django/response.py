"""`GuardedStreamingHttpResponse`: streams what a producer makes, and says how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Unpack

from django.http import StreamingHttpResponse
from django.utils.cache import patch_vary_headers

from streamguard_core import (
    SessionOptions,
    StreamSession,
    SyncStreamSession,
    UsageError,
    current_scope,
)
from streamguard_core.formats import (
    Events,
    Format,
    Raw,
    choose,
    form_of,
    id_header,
)
from streamguard_core.limits import check_seconds
from streamguard_django.conf import option
from streamguard_django.guarding import content_of, scope_of
from streamguard_django.scope import RequestScope

_SETTING: Final = -1.0
"""`ping` was not given: the setting `PING` holds."""


class GuardedStreamingHttpResponse(StreamingHttpResponse):
    """A response that ends with its reader, and never ends cleanly after a failure.

    The reader gets server-sent events, or lines of JSON or plain text if its `Accept` asks for them,
    and an explicit `eos` at the end that says why. Works alike in sync and async views, under ASGI
    and WSGI, with producers of either kind.

    Args:
        content: a `StreamSession`, or anything that one takes as a producer: an object with
            `stream()` or `run()`, an async or sync iterator, a callable returning one. Under WSGI
            also a `SyncStreamSession`.
        request: Django's; may be left out under `StreamGuardMiddleware`.
        status, headers: of the response.
        media_type: the format, whatever the reader accepts: `text/event-stream`,
            `application/x-ndjson`, `text/plain`; anything else is passed on as the bytes that the
            producer makes.
        ping: longest silence in seconds before a keep-alive comment; None for none; the setting
            `PING` by default.
        ids: number the events with commit offsets.
        session: what the session is built with, if `content` is not one.

    Raises:
        UsageError: outside of a request; when a session's options are given for a session that is
            there already; when a time is not positive.

    Example:
        >>> def view(request):  # doctest: +SKIP
        ...     return GuardedStreamingHttpResponse(OllamaProducer(model="llama3", prompt="Why?"))
    """

    def __init__(
        self,
        content: Any,
        *,
        request: Any = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        ping: float | None = _SETTING,
        ids: bool = False,
        **session: Unpack[SessionOptions],
    ) -> None:
        if session and isinstance(content, StreamSession | SyncStreamSession):
            raise UsageError(
                f"{', '.join(session)} were given for a session that is built already; give them to it"
            )
        ping = option("PING") if ping == _SETTING else ping
        if ping is not None:
            check_seconds("ping", ping)
        scope = _scope(request)
        accepted = scope.request.headers.get("Accept", "*/*")
        first_id = 0 if ids else None
        form = choose(accepted, first_id) if media_type is None else form_of(media_type, first_id)
        guarded = content_of(content, form, scope, session, ping=ping)
        own = media_type if isinstance(form, Raw) else f"{form.media_type}; charset=utf-8"
        named = {name.lower() for name in headers or ()}
        # Django takes it either way, and not both ways.
        content_type = None if "content-type" in named else own
        super().__init__(guarded, status=status, headers=headers, content_type=content_type)
        name_stream(self, form, guarded.session.stream_id, chosen=media_type is None)


def name_stream(
    response: StreamingHttpResponse, form: Format, stream_id: str, *, chosen: bool
) -> None:
    """The caller's headers first; what they leave open is the format's, and the stream's name.

    Args:
        response: gets the headers.
        form: its format.
        stream_id: names the stream.
        chosen: the format was chosen by the request's `Accept`.
    """
    response.headers.setdefault("Cache-Control", "no-store")
    if isinstance(form, Events):
        response.headers.setdefault("X-Accel-Buffering", "no")
    for name, value in id_header(stream_id).items():
        response.headers.setdefault(name, value)
    if chosen:
        patch_vary_headers(response, ("Accept",))


def _scope(request: Any) -> RequestScope:
    """The request's scope; without the middleware, one of this response's own."""
    if request is None:
        scope = current_scope()
        if isinstance(scope, RequestScope):
            return scope
        raise UsageError(
            "a GuardedStreamingHttpResponse was built outside of StreamGuardMiddleware; give it request=request,"
            ' or write "streamguard_django.StreamGuardMiddleware" into MIDDLEWARE'
        )
    return scope_of(request)
