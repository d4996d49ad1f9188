"""The matrix's ASGI applications, one per framework and practice, by the first part of the path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import plain
from asking import Case, ledger
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sse_starlette import EventSourceResponse as OtherEventSourceResponse
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Route

from streamguard_asgi import GuardedResponse, StreamGuardMiddleware, guard_stream
from streamguard_providers import StreamDecoder

METHODS = ["GET", "POST"]


def _case(request: Request) -> Case:
    return Case(request.url.query)


# ---------------------------------------------------------------- guarded by name


async def raw(scope: Any, receive: Any, send: Any) -> None:
    """Plain ASGI, with our response."""
    producer = await Case(scope["query_string"]).producer()
    await GuardedResponse(producer)(scope, receive, send)


@guard_stream
async def decorated(request: Request) -> Any:
    """An endpoint that returns a producer."""
    return await _case(request).producer()


def starlette(name: str) -> Any:
    """Starlette, and the decorator."""
    app = Starlette(routes=[Route("/", decorated, methods=METHODS)])
    app.add_middleware(StreamGuardMiddleware, ledger=ledger(name))
    return app


def fastapi(name: str) -> Any:
    """FastAPI, and the decorator."""
    app = FastAPI()
    app.api_route("/", methods=METHODS)(decorated)
    app.add_middleware(StreamGuardMiddleware, ledger=ledger(name))
    return app


class Passing(BaseHTTPMiddleware):
    """Does nothing, which is enough to stand between server and application."""

    async def dispatch(self, request: Any, call_next: Any) -> Any:
        """Pass on."""
        return await call_next(request)


def between(name: str) -> Any:
    """The guard below one BaseHTTPMiddleware and above another."""
    app = Starlette(routes=[Route("/", decorated, methods=METHODS)])
    app.add_middleware(Passing)
    app.add_middleware(StreamGuardMiddleware, ledger=ledger(name))
    app.add_middleware(Passing)
    return app


# ---------------------------------------------------------------- untouched, under one line


def untouched(name: str, endpoint: Callable[..., Any], **options: Any) -> Any:
    """An application that knows no StreamGuard but the one line, and the transport of its client."""
    app = FastAPI()
    app.api_route("/", methods=METHODS, **options)(endpoint)
    # What passes is read, so that an end that has passed is known.
    app.add_middleware(StreamGuardMiddleware, ledger=ledger(name), decoder=StreamDecoder.auto)
    return app


async def native(request: Request) -> AsyncIterator[ServerSentEvent]:
    """FastAPI's own server-sent events."""
    async for line in _case(request).lines():
        yield ServerSentEvent(raw_data=line)


async def streaming(request: Request) -> Response:
    """Starlette's StreamingResponse over an async generator."""

    async def events() -> AsyncIterator[str]:
        async for line in _case(request).lines():
            yield f"data: {line}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def threaded(request: Request) -> Response:
    """The same over a generator that blocks in a thread."""

    def events() -> Iterator[str]:
        for line in _case(request).blocking_lines():
            yield f"data: {line}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def sse_starlette(request: Request) -> Response:
    """sse-starlette's response."""
    return OtherEventSourceResponse(_case(request).lines())


APPS: dict[str, Any] = {
    "raw": StreamGuardMiddleware(raw, ledger=ledger("raw")),
    "starlette": starlette("starlette"),
    "fastapi": fastapi("fastapi"),
    "basehttp": between("basehttp"),
    "fastapi-sse": untouched("fastapi-sse", native, response_class=EventSourceResponse),
    "fastapi-streaming": untouched("fastapi-streaming", streaming),
    "fastapi-threaded": untouched("fastapi-threaded", threaded),
    "sse-starlette": untouched("sse-starlette", sse_starlette),
}


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """`/` answers; `/NAME` is the application of that name."""
    name = scope.get("path", "").strip("/")
    if not name:
        await plain.app(scope, receive, send)
        return
    await APPS[name]({**scope, "path": "/", "raw_path": b"/"}, receive, send)
