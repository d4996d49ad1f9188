"""The applications that `bench/asgi.py` compares, each streaming the same chunks; run by uvicorn as a process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qs

from fastapi import FastAPI
from fastapi.sse import EventSourceResponse as FastAPIEvents
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Mount, Route

from streamguard_asgi import GuardedResponse, StreamGuardMiddleware, guard_stream

TOKEN: Final = "token "
HEADERS: Final = [(b"content-type", b"text/event-stream; charset=utf-8")]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def tokens(chunks: int, together: int) -> AsyncIterator[str]:
    """`chunks` chunks, of which `together` at a time need no waiting."""
    for number in range(chunks):
        if number % together == 0:
            await asyncio.sleep(0)
        yield TOKEN


def asked(scope: Scope) -> tuple[int, int]:
    """How many chunks the reader wants, and how many of them together."""
    query = parse_qs(scope["query_string"].decode())
    return int(query["chunks"][0]), int(query["together"][0])


async def raw(scope: Scope, receive: Receive, send: Send) -> None:
    """What everything is compared with: formats and sends chunk by chunk."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    async for token in tokens(*asked(scope)):
        frame = f"data: {token}\n\n".encode()
        await send({"type": "http.response.body", "body": frame, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def guarded_raw(scope: Scope, receive: Receive, send: Send) -> None:
    """A guarded response, mounted as plain ASGI."""
    await GuardedResponse(tokens(*asked(scope)), media_type="text/event-stream")(
        scope, receive, send
    )


async def unguarded_route(request: Request) -> StreamingResponse:
    """Starlette's own streaming response in a Starlette route."""
    source = tokens(*asked(request.scope))
    frames = (f"data: {token}\n\n" async for token in source)
    return StreamingResponse(frames, media_type="text/event-stream")


@guard_stream(media_type="text/event-stream")
async def guarded_route(request: Request) -> Any:
    """The same under `guard_stream`."""
    return tokens(*asked(request.scope))


async def sse_starlette_route(request: Request) -> EventSourceResponse:
    """sse-starlette's response."""
    return EventSourceResponse(tokens(*asked(request.scope)))


def fastapi_application() -> FastAPI:
    """FastAPI's own server-sent events."""
    app = FastAPI()

    @app.get("/events", response_class=FastAPIEvents)
    async def events(chunks: int, together: int) -> AsyncIterator[str]:
        async for token in tokens(chunks, together):
            yield token

    return app


async def cpu(scope: Scope, receive: Receive, send: Send) -> None:
    """CPU time of this process so far, in nanoseconds."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(time.process_time_ns()).encode()})


STARLETTE: Final = Starlette(
    routes=[
        Route("/unguarded", unguarded_route),
        Route("/guarded", guarded_route),
        Route("/sse-starlette", sse_starlette_route),
        Mount("/fastapi", fastapi_application()),
    ]
)
MIDDLEWARE: Final = StreamGuardMiddleware(STARLETTE)
PLAIN: Final = {"/raw": raw, "/mounted": guarded_raw, "/cpu": cpu}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Plain ASGI where that is what is measured; else Starlette, under the middleware for `/under/...`."""
    path: str = scope.get("path", "")
    if path in PLAIN:
        await PLAIN[path](scope, receive, send)
    elif path.startswith("/under/"):
        await MIDDLEWARE(dict(scope, path=path.removeprefix("/under")), receive, send)
    else:
        await STARLETTE(scope, receive, send)
