"""A small Django project whose streams do not end by themselves, under ASGI and WSGI, with its receipts in a ledger.

Environment: `LEDGER`, the folder of the receipts; `GRACE` and `SIGNALS=off`, of the settings; `GUARD=off` for the
same project without StreamGuard.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import django
from django.conf import settings
from endless import blocking, numbers

from streamguard_ledger import SQLiteLedger

GUARDED = os.environ.get("GUARD") != "off"


def ledger() -> SQLiteLedger:
    """Made by the worker that needs it first."""
    return SQLiteLedger(os.environ["LEDGER"])


_SETTINGS = {
    "LEDGER": ledger,
    "MIRROR": False,
    "SHUTDOWN_GRACE": (
        None if os.environ.get("SIGNALS") == "off" else float(os.environ.get("GRACE", "0"))
    ),
}
settings.configure(
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["streamguard_django"] if GUARDED else [],
    MIDDLEWARE=["streamguard_django.StreamGuardMiddleware"] if GUARDED else [],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a test",
    STREAMGUARD=_SETTINGS if GUARDED else {},
    USE_TZ=True,
)
django.setup()

from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

from streamguard_core import drain  # noqa: E402
from streamguard_django import (  # noqa: E402
    GuardedStreamingHttpResponse,
    get_guarded_asgi_application,
)

MADE = itertools.count()
"""How much `/big` has made: what `/made` says."""


def big() -> Iterator[str]:
    """More than any buffer takes."""
    while True:
        next(MADE)
        yield "x" * 65536


async def big_async() -> AsyncIterator[str]:
    """The same on a loop."""
    while True:
        next(MADE)
        yield "x" * 65536
        await asyncio.sleep(0)


def empty(request: Any) -> Any:
    """Answer."""
    return HttpResponse("")


def made(request: Any) -> Any:
    """How much was taken of `/big`; to look changes nothing."""
    return HttpResponse(repr(MADE))


async def stream(request: Any) -> Any:
    """An async view; `short` ends."""
    return GuardedStreamingHttpResponse(numbers(5 if "short" in request.path else None))


async def drained(request: Any) -> Any:
    """A stream that is read on when its reader has left."""
    return GuardedStreamingHttpResponse(numbers(), on_disconnect=drain(60))


async def frozen(request: Any) -> Any:
    """For a reader that takes nothing."""
    return GuardedStreamingHttpResponse(big_async())


def blocking_stream(request: Any) -> Any:
    """A sync view; `short` ends."""
    return GuardedStreamingHttpResponse(blocking(5 if "short" in request.path else None))


def blocking_frozen(request: Any) -> Any:
    """For a reader that takes nothing."""
    return GuardedStreamingHttpResponse(big())


urlpatterns = [
    path("", empty),
    path("made", made),
    path("stream", stream),
    path("short", stream),
    path("drain", drained),
    path("big", frozen),
    path("sync/stream", blocking_stream),
    path("sync/short", blocking_stream),
    path("sync/big", blocking_frozen),
]

app = get_guarded_asgi_application() if GUARDED else get_asgi_application()
untouched = get_asgi_application()
wsgi = get_wsgi_application()
