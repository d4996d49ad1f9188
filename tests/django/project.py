"""A project of one view, with the stack of middleware that a test wants, and how it is served."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.test import override_settings
from django.urls import path
from django.utils.decorators import async_only_middleware, sync_only_middleware

from streamguard_core import Receipt

GUARD = "streamguard_django.StreamGuardMiddleware"
GZIP = "django.middleware.gzip.GZipMiddleware"
BOUND = 5.0


@sync_only_middleware
def sync_only(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A middleware of the old kind: Django runs it in a thread."""

    def middleware(request: Any) -> Any:
        return get_response(request)

    return middleware


@async_only_middleware
def async_only(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A middleware that knows no threads."""

    async def middleware(request: Any) -> Any:
        return await get_response(request)

    return middleware


SYNC = f"{__name__}.sync_only"
ASYNC = f"{__name__}.async_only"
STACKS = {
    "alone": [GUARD],
    "above-sync": [GUARD, SYNC],
    "below-sync": [SYNC, GUARD],
    "between": [ASYNC, GUARD, SYNC],
    "above-async": [GUARD, ASYNC],
}
"""The guard in stacks of every kind."""


class _Urls:
    """A URLconf that is an object."""

    def __init__(self, view: Any) -> None:
        self.urlpatterns = [path("", view), path("excluded", view)]


class Project:
    """One view, and the receipts that the project was told of."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self._told = threading.Condition()

    def keep(self, receipt: Receipt) -> None:
        """`ON_RECEIPT`."""
        with self._told:
            self.receipts.append(receipt)
            self._told.notify_all()

    def wait(self, count: int = 1) -> list[Receipt]:
        """Wait until so many receipts were told of; for tests without a loop."""
        with self._told:
            assert self._told.wait_for(lambda: len(self.receipts) >= count, BOUND)
        return self.receipts

    def asgi(self) -> ASGIHandler:
        """Django's ASGI application."""
        return ASGIHandler()

    def wsgi(self) -> WSGIHandler:
        """Django's WSGI application."""
        return WSGIHandler()


@contextmanager
def project(view: Any, middleware: list[str] | None = None, **settings: Any) -> Iterator[Project]:
    """A project of one view. `settings` are keys of `STREAMGUARD`."""
    made = Project()
    # As Django's own test client does: they would look at the connections of the test's thread.
    request_started.disconnect(close_old_connections)
    request_finished.disconnect(close_old_connections)
    try:
        with _overridden(view, middleware, made, settings):
            yield made
    finally:
        request_started.connect(close_old_connections)
        request_finished.connect(close_old_connections)


def _overridden(
    view: Any, middleware: list[str] | None, made: Project, settings: dict[str, Any]
) -> Any:
    return override_settings(
        ROOT_URLCONF=_Urls(view),
        MIDDLEWARE=STACKS["alone"] if middleware is None else middleware,
        STREAMGUARD={"ON_RECEIPT": made.keep, "MIRROR": False, **settings},
    )


class WSGIServer:
    """One request, driven as a WSGI server drives it."""

    def __init__(self, app: Any, *, method: Any = "GET", **environ: Any) -> None:
        self.status = ""
        self.headers: dict[str, str] = {}
        self.closed = False
        self._body = app(
            {
                "REQUEST_METHOD": method,
                "PATH_INFO": "/",
                "SERVER_NAME": "localhost",
                "SERVER_PORT": "80",
                "wsgi.input": BytesIO(),
                "wsgi.url_scheme": "http",
                "wsgi.errors": BytesIO(),
                **environ,
            },
            self._start,
        )
        self.parts = iter(self._body)

    def _start(self, status: str, headers: list[tuple[str, str]], *_: Any) -> None:
        self.status, self.headers = status, {name.lower(): value for name, value in headers}

    def read(self) -> bytes:
        """The next part, as the server asks for it after it has written the one before."""
        part: bytes = next(self.parts)
        return part

    def read_to_end(self) -> bytes:
        """Everything, and then what a server does at the end."""
        try:
            return b"".join(self.parts)
        finally:
            self.close()

    def close(self) -> None:
        """What a server calls at the end of every response, however it ended."""
        self.closed = True
        self._body.close()
