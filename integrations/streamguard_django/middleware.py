"""`StreamGuardMiddleware`: one line in MIDDLEWARE, and every request of a project is under guard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import FileResponse

from streamguard_core import Cause, use_scope
from streamguard_django.conf import option
from streamguard_django.content import AsIs, Content
from streamguard_django.deploys import deploys
from streamguard_django.guarding import content_of, is_asgi
from streamguard_django.scope import RequestScope
from streamguard_django.sources import maker_of
from streamguard_django.watching import SocketWatcher, socket_of

SCOPE_KEY = "streamguard_django"
"""Where an ASGI wrapper leaves the request's scope for the middleware."""


class StreamGuardMiddleware:
    """Guards whatever a view streams, and ends its provider calls when its reader leaves.

    Put it first, or right below `GZipMiddleware`. Works in sync, async and mixed stacks. A request
    in which nothing is streamed and no provider is called costs a scope and nothing else.

    Args:
        get_response: the next middleware, or the view.

    Raises:
        ImproperlyConfigured: at the first request, when `STREAMGUARD` cannot be used.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        self._watcher = SocketWatcher()
        deploys.loaded()
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Answer one request; a coroutine where the stack is async."""
        if any(pattern.search(request.path) for pattern in option("EXCLUDE")):
            return self.get_response(request)
        scope = request.streamguard = self._scope_of(request)
        if self._is_async:
            return self._answer(request, scope)
        try:
            with use_scope(scope):
                return _guarded(self.get_response(request), request, scope)
        finally:
            if not scope.streaming:
                scope.finish()
                scope.stay()

    def process_exception(self, request: Any, exception: Exception) -> None:
        """A view raised, and no other middleware has answered for it: its streams end with it."""
        scope = getattr(request, "streamguard", None)
        if isinstance(scope, RequestScope):
            scope.failed(exception)

    async def _answer(self, request: Any, scope: RequestScope) -> Any:
        answering: Awaitable[Any] = self.get_response(request)
        with use_scope(scope):
            try:
                return _guarded(await answering, request, scope)
            except asyncio.CancelledError:
                # Django cancels a view for its reader's leaving and for nothing else.
                scope.disconnected("Django cancelled the view")
                raise
            finally:
                if not scope.streaming:
                    scope.hand_over()

    def _scope_of(self, request: Any) -> RequestScope:
        asgi = is_asgi(request)
        scope = request.scope.get(SCOPE_KEY) if asgi else None
        if isinstance(scope, RequestScope):
            scope.request = request
            return scope
        scope = RequestScope(request, asgi=asgi)
        connection = None if asgi else socket_of(request.environ)
        if connection is not None and option("WATCH_SOCKET"):
            watcher = self._watcher
            scope.watch = lambda: watcher.watch(connection, scope)
            scope.told = {
                Cause.CONSUMER_STALLED: lambda: watcher.break_off(connection, scope),
                Cause.SHUTDOWN: lambda: watcher.break_off_soon(connection, scope),
            }
        return scope


def _guarded(response: Any, request: Any, scope: RequestScope) -> Any:
    """Put the guard around what a streaming response streams; other responses are what they are."""
    if not response.streaming or isinstance(response, FileResponse):
        return response
    iterator = vars(response).get("_iterator", response.streaming_content)
    if isinstance(iterator, Content):
        if request.method == "HEAD":
            iterator.close()  # type: ignore[attr-defined]
        return response
    if request.method == "HEAD":
        # Servers that drop the body would have it generated all the same.
        _replace(response, _nothing() if scope.asgi else ())
        return response
    make = maker_of(response)
    _replace(response, content_of(iterator, AsIs(make), scope, {}, make=make))
    return response


async def _nothing() -> AsyncIterator[bytes]:
    empty: tuple[bytes, ...] = ()
    for each in empty:
        yield each


def _replace(response: Any, content: Any) -> None:
    response.streaming_content = content
    with suppress(KeyError):
        del response.headers["Content-Length"]
