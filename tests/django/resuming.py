"""A project with a resumable view, the addresses of its streams, and readers who lose their connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.test import override_settings
from django.urls import include, path

from streamguard_django import (
    GuardedStreamingHttpResponse,
    get_guarded_asgi_application,
    resumable,
)

from ..adapters.resuming import ResumingRig, ids, tokens  # noqa: TID252 - one rig for all adapters
from .project import Project, WSGIServer, project


class _Urls:
    """A URLconf that is an object."""

    def __init__(self, view: Any) -> None:
        streams = include("streamguard_django.urls")
        self.urlpatterns = [path("", view), path("other", view), path("streams/", streams)]


@contextmanager
def resuming(view: Any, middleware: list[str] | None = None, **settings: Any) -> Iterator[Project]:
    """A project of one view, which is resumable, at two addresses. `settings` are keys of `STREAMGUARD`."""
    with (
        project(view, middleware, **settings) as made,
        override_settings(ROOT_URLCONF=_Urls(resumable(view))),
    ):
        yield made


class Rig(ResumingRig):
    """A resumable view over engines, under ASGI.

    Args:
        options: of the response.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = options

    async def view(self, request: Any) -> GuardedStreamingHttpResponse:
        """The view."""
        return self._answer(request)

    def sync_view(self, request: Any) -> GuardedStreamingHttpResponse:
        """The same, not async."""
        return self._answer(request)

    def _answer(self, request: Any) -> GuardedStreamingHttpResponse:
        return GuardedStreamingHttpResponse(self.stream(), request=request, **self._options)


@contextmanager
def resumed(view: str, *, guarded: bool, **bounds: Any) -> Iterator[Rig]:
    """A rig whose view is resumable.

    Args:
        view: which of the rig's.
        guarded: whether the application is the guarded one.
        bounds: keys of `RESUME`.
    """
    rig = Rig()
    with resuming(getattr(rig, view), RESUME=bounds) as made:
        rig.app = get_guarded_asgi_application(made.asgi()) if guarded else made.asgi()
        rig.receipts = made.receipts
        yield rig


class WSGIReader(WSGIServer):
    """One request of a reader under WSGI.

    Args:
        app: the application.
        last_id: what it got last; None for a request that begins.
        environ: the rest of the request.
    """

    def __init__(self, app: Any, last_id: object = None, **environ: Any) -> None:
        if last_id is not None:
            environ["HTTP_LAST_EVENT_ID"] = str(last_id)
        super().__init__(app, **environ)

    @property
    def text(self) -> str:
        """All that was sent so far."""
        return self.content.decode()

    def read_tokens(self, count: int) -> str:
        """Read until so many have come; the last id."""
        while len(tokens(self.text)) < count:
            assert self.read()
        return ids(self.text)[-1]


def post_wsgi(app: Any, path: str, **environ: Any) -> tuple[int, Any]:
    """What a POST is answered with under WSGI."""
    server = WSGIServer(app, method="POST", PATH_INFO=path, **environ)
    return server.status_code, json.loads(server.read_to_end())


def end_of(text: str) -> Any:
    """The data of `eos`."""
    _, _, end = text.partition("event: eos\n")
    (data,) = [line[6:] for line in end.split("\n") if line.startswith("data: ")]
    return json.loads(data)
