"""The matrix's Django project, under ASGI and WSGI: a view of each kind, guarded by name and untouched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import django
from asking import Case, ledger
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["streamguard_django"],
    MIDDLEWARE=["streamguard_django.StreamGuardMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a test",
    STREAMGUARD={"LEDGER": ledger("django"), "MIRROR": False, "CLOSE_TIMEOUT": 1.0},
    USE_TZ=True,
)
django.setup()

from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpResponse, StreamingHttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

from streamguard_django import (  # noqa: E402
    GuardedStreamingHttpResponse,
    get_guarded_asgi_application,
)

EVENTS = "text/event-stream"


def _case(request: Any) -> Case:
    return Case(request.META["QUERY_STRING"])


def empty(request: Any) -> Any:
    """Answer."""
    return HttpResponse("")


async def async_guarded(request: Any) -> Any:
    """An async view, and our response."""
    return GuardedStreamingHttpResponse(await _case(request).producer())


async def async_untouched(request: Any) -> Any:
    """An async view that knows no StreamGuard."""

    async def events() -> AsyncIterator[str]:
        async for line in _case(request).lines():
            yield f"data: {line}\n\n"

    return StreamingHttpResponse(events(), content_type=EVENTS)


def sync_guarded(request: Any) -> Any:
    """A sync view, and our response."""
    return GuardedStreamingHttpResponse(_case(request).blocking_lines())


def sync_untouched(request: Any) -> Any:
    """A sync view that knows no StreamGuard."""

    def events() -> Iterator[str]:
        for line in _case(request).blocking_lines():
            yield f"data: {line}\n\n"

    return StreamingHttpResponse(events(), content_type=EVENTS)


VIEWS: dict[str, Callable[..., Any]] = {
    "django-async": async_guarded,
    "django-async-untouched": async_untouched,
    "django-sync": sync_guarded,
    "django-sync-untouched": sync_untouched,
}
urlpatterns = [path("", empty), *(path(name, view) for name, view in VIEWS.items())]

app = get_guarded_asgi_application()
wsgi = get_wsgi_application()
