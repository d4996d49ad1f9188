"""Puts a guard around a producer: the session and the content that fit the server."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest

from streamguard_core import SessionOptions, StreamSession, SyncStreamSession, UsageError
from streamguard_core.formats import Events, Format
from streamguard_core.kept import KeptStream
from streamguard_core.policies import ByProvider, Rule, as_policy, cancel
from streamguard_django.conf import option
from streamguard_django.content import AsyncContent, Content, LoopContent, SyncContent
from streamguard_django.kept import Kept, KeptAsyncContent, KeptLoopContent
from streamguard_django.loops import LoopThread
from streamguard_django.resume import Resume, Resuming
from streamguard_django.scope import RequestScope
from streamguard_django.signals import stream_opened
from streamguard_django.sources import (
    AsyncSource,
    Make,
    SyncSource,
    ThreadedSource,
    unchanged,
)

LOOP: Final = LoopThread()
"""Where async producers run under WSGI; nothing runs before one does."""


def is_asgi(request: Any) -> bool:
    """Whether an event loop serves this request; its middleware may run in a thread all the same."""
    return isinstance(request, ASGIRequest)


def loop_of(request: Any) -> LoopThread | None:
    """Where the streams of this server live: on a loop in a thread; None for the one that serves the request."""
    return None if is_asgi(request) else LOOP


def scope_of(request: Any) -> RequestScope:
    """The request's scope; without the middleware, one that is made for it."""
    scope = getattr(request, "streamguard", None)
    if not isinstance(scope, RequestScope):
        scope = request.streamguard = RequestScope(request, asgi=is_asgi(request))
    return scope


def content_of(
    producer: Any,
    form: Format,
    scope: RequestScope,
    options: SessionOptions,
    *,
    make: Make = unchanged,
    ping: float | None = None,
) -> Content:
    """Return what a response under `scope` streams from.

    Args:
        producer: anything a session takes, or a session.
        form: how it looks on the wire.
        scope: the request's.
        options: of the session, which settings complete.
        make: turns an item of a sync iterator of the application's own into a chunk; of an async one `form` does.
        ping: longest silence in seconds before a keep-alive.

    Raises:
        UsageError: for a session that its server cannot run.
    """
    content = _content(producer, form, scope, options, make, ping)
    session = content.session
    if session is not producer and (call := scope.open_call()) is not None:
        # A session of the application's own has a name already, by which it may be known.
        scope.go_on(call, session)
    scope.add(session)
    scope.session = scope.session or session
    stream_opened.send_robust(type(session), request=scope.request, session=session)
    return content


def _content(
    producer: Any,
    form: Format,
    scope: RequestScope,
    options: SessionOptions,
    make: Make,
    ping: float | None,
) -> Content:
    ping = ping if form.ping else None
    resuming = scope.resuming if isinstance(form, Events) else None
    if isinstance(producer, SyncStreamSession):
        if scope.asgi:
            raise UsageError(
                "a SyncStreamSession was given to a response under ASGI; give a StreamSession"
            )
        if resuming is not None:
            raise UsageError(
                "a SyncStreamSession was given to a response of a resumable view; its producer runs in its"
                " reader's thread, and nobody would run it while the reader is away: give the producer itself"
            )
        return SyncContent(producer, form, scope)
    if resuming is not None:
        return _kept(producer, resuming, scope, options, ping)
    if isinstance(producer, StreamSession):
        return _looped(producer, form, scope, ping)
    keywords = _with_settings(options, scope)
    if _is_blocking(producer):
        if scope.asgi:
            threaded = ThreadedSource(producer, scope, make)
            return AsyncContent(
                StreamSession(threaded, **keywords), form, scope, own=True, ping=ping
            )
        blocking = SyncSource(producer, scope, make, own_thread=ping is not None)
        if ping is None:
            session = SyncStreamSession(blocking, **_without_grace(keywords))
            return SyncContent(session, form, scope, own=True)
        return _looped(StreamSession(blocking, **keywords), form, scope, ping, own=True)
    if _is_async(producer):
        source = AsyncSource(producer, scope)
        return _looped(StreamSession(source, **keywords), form, scope, ping, own=True)
    return _looped(StreamSession(producer, **keywords), form, scope, ping)


def _kept(
    producer: Any,
    resuming: Resuming,
    scope: RequestScope,
    options: SessionOptions,
    ping: float | None,
) -> Content:
    """What a stream is read from that may outlive its request: nothing of it is the request's own."""
    resume, owner = resuming
    session, own = _outliving(producer, resume, scope, options)
    path = scope.request.path
    # Django sends the headers, with the stream's id, before it asks for anything of the stream.
    expected = resume.expect(session, owner)
    content = _kept_kind(scope, ping)(
        session,
        Events(),
        scope,
        own=own,
        keep=lambda: resume.keep_for(expected.session, expected.owner, path),
    )
    scope.add(content)
    return content


def _outliving(
    producer: Any, resume: Resume, scope: RequestScope, options: SessionOptions
) -> tuple[StreamSession, bool]:
    """The session, and whether it streams an iterator of the application's own."""
    if isinstance(producer, StreamSession):
        return producer, False
    resume.check(options)
    keywords = {**_with_settings(options, scope), "on_disconnect": resume.policy, **options}
    source: Any = None
    if _is_blocking(producer):
        # Not in the thread of its view, which ends with the request.
        source = SyncSource(producer, scope, unchanged, own_thread=True)
    elif _is_async(producer):
        source = AsyncSource(producer, scope)
    own = source is not None
    return StreamSession(source if own else producer, **keywords), own


def continued_by(kept: KeptStream, scope: RequestScope, form: Events, opening: bytes) -> Kept:
    """What another request under `scope` reads a kept stream from, of which it is sent `opening` first."""
    made = _kept_kind(scope, option("PING"))
    return made(kept.session, form, scope, kept=kept, opening=opening)


def _kept_kind(scope: RequestScope, ping: float | None) -> Callable[..., Kept]:
    if scope.asgi:
        return partial(KeptAsyncContent, ping=ping)
    timeout = option("CLOSE_TIMEOUT")
    return partial(KeptLoopContent, ping=ping, loop=LOOP, close_timeout=timeout)


def _looped(
    session: StreamSession,
    form: Format,
    scope: RequestScope,
    ping: float | None,
    *,
    own: bool = False,
) -> Content:
    """Read on a loop; an iterator of the application's `own` chunk by chunk, and what is ours in batches."""
    if scope.asgi:
        return AsyncContent(session, form, scope, own=own, ping=ping)
    timeout = option("CLOSE_TIMEOUT")
    return LoopContent(session, form, scope, own=own, loop=LOOP, ping=ping, close_timeout=timeout)


def _is_producer(value: Any) -> bool:
    return callable(getattr(value, "stream", None)) or callable(getattr(value, "run", None))


def _is_blocking(value: Any) -> bool:
    """True for sync iterators. What can be iterated both ways is async: one kind, never both."""
    return (
        hasattr(value, "__iter__") and not hasattr(value, "__aiter__") and not _is_producer(value)
    )


def _is_async(value: Any) -> bool:
    """True for async iterators, whatever else they are."""
    return hasattr(value, "__aiter__") and not _is_producer(value)


def _with_settings(options: SessionOptions, scope: RequestScope) -> dict[str, Any]:
    """The session's keywords: what was given, and what the settings say where nothing was."""
    keywords: dict[str, Any] = {
        "ledger": scope.ledger,
        "prices": scope.prices,
        "deadlines": option("DEADLINES"),
        "on_disconnect": option("ON_DISCONNECT"),
        "tags": scope.tags(),
        **options,
    }
    keywords["observers"] = (*keywords.get("observers", ()), scope.noticed)
    return keywords


def _without_grace(keywords: dict[str, Any]) -> dict[str, Any]:
    """The reader's thread runs the producer, so that nobody is left to wait: grace is a cancel."""
    policy = as_policy(keywords["on_disconnect"])
    policies = (
        (policy.saves, policy.bills, policy.unknown)
        if isinstance(policy, ByProvider)
        else (policy,)
    )
    if any(each.rule is Rule.GRACE for each in policies):
        return {**keywords, "on_disconnect": cancel()}
    return keywords
