"""Django's own streaming response: unguarded, under the middleware, under the guarded ASGI application, and guarded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import StreamingHttpResponse
from django.test.utils import override_settings
from django.urls import path

from bench.served import tokens
from streamguard_django import GuardedStreamingHttpResponse, get_guarded_asgi_application

EVENTS: Final = "text/event-stream"
MIDDLEWARE: Final = ["streamguard_django.StreamGuardMiddleware"]


def _asked(request: Any) -> AsyncIterator[str]:
    return tokens(int(request.GET["chunks"]), int(request.GET["together"]))


async def own(request: Any) -> StreamingHttpResponse:
    """Django's own response: a send for each chunk."""
    frames = (f"data: {token}\n\n" async for token in _asked(request))
    return StreamingHttpResponse(frames, content_type=EVENTS)


async def guarded(request: Any) -> GuardedStreamingHttpResponse:
    """A producer in a guarded response."""
    return GuardedStreamingHttpResponse(_asked(request), media_type=EVENTS)


urlpatterns: Final = [path("own", own), path("guarded", guarded)]


def applications() -> dict[str, Any]:
    """Applications by where they are mounted. A project has one list of middleware, and these have two."""
    settings.configure(
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=[],
        MIDDLEWARE=[],
        ROOT_URLCONF=__name__,
        SECRET_KEY="no secret",
    )
    django.setup()
    plain = get_asgi_application()
    with override_settings(MIDDLEWARE=MIDDLEWARE):
        under = get_asgi_application()
    return {
        "/django/plain": plain,
        "/django/under": under,
        "/django/whole": get_guarded_asgi_application(under),
    }
