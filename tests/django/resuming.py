"""A project with a resumable view, the addresses of its streams, and readers who lose their connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.test import override_settings
from django.urls import include, path

from streamguard_django import GuardedStreamingHttpResponse, resumable

from ..asgi.driver import Engine, Server  # noqa: TID252 - one server for both adapters
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


class Rig:
    """A resumable view over engines, under ASGI.

    Args:
        options: of the response.
    """

    def __init__(self, **options: Any) -> None:
        self.engines: list[Engine] = []
        self.tokens = 3
        self._options = options
        self.app: Any = None

    async def view(self, request: Any) -> GuardedStreamingHttpResponse:
        """The view."""
        return self._answer(request)

    def sync_view(self, request: Any) -> GuardedStreamingHttpResponse:
        """The same, not async."""
        return self._answer(request)

    def _answer(self, request: Any) -> GuardedStreamingHttpResponse:
        self.engines.append(Engine(self.tokens))
        return GuardedStreamingHttpResponse(
            self.engines[-1].stream(), request=request, **self._options
        )

    def get(self, last_id: object = None, path: str = "/", **headers: str) -> Server:
        """A request of a reader."""
        if last_id is not None:
            headers["last_event_id"] = str(last_id)
        return Server(self.app, path, headers=_wire(headers))

    async def post(self, path: str, **headers: str) -> tuple[int, Any]:
        """What a request to an address of the streams is answered with."""
        server = await Server(self.app, path, method="POST", headers=_wire(headers)).run()
        return server.status, json.loads(server.text) if server.text.startswith("{") else None

    async def broken_off(self, tokens: int = 3, **headers: str) -> str:
        """Read so many tokens and lose the connection; the last id."""
        async with self.get(**headers) as server:
            await server.events_sent(tokens)
            server.leave()
            await server.ended()
        return ids(server.text)[-1]


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


def ids(text: str) -> list[str]:
    """The ids that were sent."""
    return [line[4:] for line in text.split("\n") if line.startswith("id: ")]


def tokens(text: str) -> list[str]:
    """The tokens that were sent."""
    return [line[6:] for line in text.split("\n") if line.startswith("data: token")]


def end_of(text: str) -> Any:
    """The data of `eos`."""
    _, _, end = text.partition("event: eos\n")
    (data,) = [line[6:] for line in end.split("\n") if line.startswith("data: ")]
    return json.loads(data)


def _wire(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers that were written as keywords."""
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
