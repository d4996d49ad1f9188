"""Test clients that read a streaming response part by part, and can leave in the middle."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory

from streamguard_core.testing import ASGIServer
from streamguard_django.asgi import get_guarded_asgi_application
from streamguard_django.testing.responses import (
    AsyncStreamedResponse,
    StreamedResponse,
    connections_kept,
)

_TIMEOUT: Final = 5.0


class AsyncStreamClient(AsyncClient):
    """Django's `AsyncClient`, which can also read a stream and leave it: over ASGI, as a server drives it.

    Its cookies, its logins and its other methods are Django's. A view's exception is answered with 500,
    as a reader would see it.

    Args:
        app: the ASGI application; by default the project's own, under the guard, and without checks of
            CSRF unless `enforce_csrf_checks=True`.
        timeout: longest wait for anything that a view does, in seconds.
        options: Django's: `headers`, `enforce_csrf_checks` and whatever else `AsyncClient` takes.

    Example:
        >>> async def test_words():  # doctest: +SKIP
        ...     async with AsyncStreamClient().stream("get", "/words") as response:
        ...         assert b"one" in await response.read()
        ...         response.leave()
    """

    def __init__(
        self, app: Callable[..., Any] | None = None, *, timeout: float = _TIMEOUT, **options: Any
    ) -> None:
        super().__init__(**options)
        self._app, self._timeout = app, timeout

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, data: Any = None, **options: Any
    ) -> AsyncIterator[AsyncStreamedResponse]:
        """Begin a request whose response is read part by part, in an `async with`.

        The end of the block leaves a response that is not complete, and waits until the application has
        returned; what that raised is raised there, unless a read has raised it.

        Args:
            method: of HTTP, in any case.
            path: with its query.
            data: what Django's client takes: a form, or JSON with `content_type="application/json"`.
            **options: those of Django's client: `content_type`, `headers`, `query_params`, `secure`.

        Raises:
            AssertionError: when the application does not return in time after its reader has left.
        """
        request = _built(AsyncRequestFactory(), self, method, path, data, options)
        app = self._app or get_guarded_asgi_application(
            _handler(ASGIHandler, ASGIRequest, self.handler.enforce_csrf_checks)
        )
        server = ASGIServer(
            app, body=[request.body], paced=True, touchy=False, timeout=self._timeout
        )
        server.scope |= _asgi_scope(request.scope)
        with connections_kept():
            async with server:
                response = AsyncStreamedResponse(server)
                yield response
                await response.finish()


class StreamClient(Client):
    """Django's `Client`, which can also read a stream and leave it: over WSGI, as a server drives it.

    Args:
        app: the WSGI application; by default the project's own, without checks of CSRF unless
            `enforce_csrf_checks=True`.
        options: Django's: `headers`, `enforce_csrf_checks` and whatever else `Client` takes.

    Example:
        >>> with StreamClient().stream("get", "/words") as response:  # doctest: +SKIP
        ...     assert b"one" in response.read()
        ...     response.leave()
    """

    def __init__(self, app: Callable[..., Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._app = app

    @contextmanager
    def stream(
        self, method: str, path: str, data: Any = None, **options: Any
    ) -> Iterator[StreamedResponse]:
        """Begin a request whose response is read part by part, in a `with`; its end leaves the response.

        Args:
            method: of HTTP, in any case.
            path: with its query.
            data: what Django's client takes.
            **options: those of Django's client.
        """
        request = _built(RequestFactory(), self, method, path, data, options)
        app = self._app or _handler(WSGIHandler, WSGIRequest, self.handler.enforce_csrf_checks)
        with connections_kept():
            response = StreamedResponse(app, request.environ)
            try:
                yield response
            finally:
                response.leave()


def _built(
    factory: Any, client: Any, method: str, path: str, data: Any, options: dict[str, Any]
) -> Any:
    """Django's own idea of a request with these arguments, as this client would make it."""
    factory.cookies, factory.defaults = client.cookies, client.defaults
    factory.json_encoder = client.json_encoder
    make = getattr(factory, method.lower())
    return make(path, **options) if data is None else make(path, data, **options)


def _handler(handler: Any, request: Any, enforce_csrf_checks: bool) -> Any:
    """The project's application, in which posts need no token, as with Django's clients."""
    made = handler()
    made.request_class = type(
        request.__name__, (request,), {"_dont_enforce_csrf_checks": not enforce_csrf_checks}
    )
    return made


def _asgi_scope(given: dict[str, Any]) -> dict[str, Any]:
    """What ASGI says a scope holds, of what Django's factory makes."""
    return {
        **{name: value for name, value in given.items() if name != "asgi"},
        "raw_path": given["path"].encode("latin-1"),
        "query_string": given["query_string"].encode("latin-1"),
    }
