"""A project of one view, with the stack of middleware that a test wants, and how it is served."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.test import RequestFactory, override_settings
from django.urls import path
from django.utils.decorators import async_only_middleware, sync_only_middleware

from streamguard_core import Receipt
from streamguard_django.testing.responses import StreamedResponse, connections_kept

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
    with connections_kept(), _overridden(view, middleware, made, settings):
        yield made


def _overridden(
    view: Any, middleware: list[str] | None, made: Project, settings: dict[str, Any]
) -> Any:
    return override_settings(
        ROOT_URLCONF=_Urls(view),
        MIDDLEWARE=STACKS["alone"] if middleware is None else middleware,
        STREAMGUARD={"ON_RECEIPT": made.keep, "MIRROR": False, **settings},
    )


class WSGIServer(StreamedResponse):
    """One request, driven as a WSGI server drives it."""

    def __init__(self, app: Any, *, method: Any = "GET", **environ: Any) -> None:
        super().__init__(app, RequestFactory().generic(method, "/").environ | environ)
