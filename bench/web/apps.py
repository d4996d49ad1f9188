"""The applications that are compared: the same response unguarded, under the middleware, and under `guard_stream`."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.sse import EventSourceResponse as FastAPIEvents
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Mount, Route

from bench.served import HEADERS, asked, cpu, tokens
from bench.web import django_app
from streamguard_asgi import Acknowledge, StreamGuardMiddleware, guard_stream
from streamguard_core import Receipt, StreamSession

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
Producer = Callable[[Request], AsyncIterator[str]]
EVENTS: Final = "text/event-stream"
LEAD: Final = 0.5
"""How long a stream waits before its schedule begins, in seconds."""


def usual(request: Request) -> AsyncIterator[str]:
    """So many chunks, so many of them together."""
    return tokens(*asked(request.scope))


async def due(request: Request) -> AsyncIterator[str]:
    """Chunks on a schedule that waits for nobody; each says when it was due, on the machine's monotonic clock."""
    rate, seconds = float(request.query_params["rate"]), float(request.query_params["seconds"])
    step = int(1e9 / rate)
    # All readers are there by then, and no two streams are due in the same instant.
    begin = time.monotonic_ns() + int(LEAD * 1e9) + random.randrange(step)
    for number in range(int(rate * seconds)):
        at = begin + number * step
        if (early := at - time.monotonic_ns()) > 0:
            await asyncio.sleep(early / 1e9)
        yield str(at)


async def proxied(request: Request) -> AsyncIterator[str]:
    """What a provider sends that is another process; its connection is closed with the iterator."""
    port, name = request.query_params["port"], request.query_params["name"]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    try:
        writer.write(f"{name}\n".encode())
        while line := await reader.readline():
            yield line.decode().strip()
    finally:
        writer.close()


async def frozen(request: Request) -> AsyncIterator[str]:
    """Some chunks at once, and then for ever: one a second, or as fast as they are taken."""
    size, pace = int(request.query_params["size"]), float(request.query_params["pace"])
    chunk = "x" * size
    for _ in range(10):
        yield chunk
    while True:
        await asyncio.sleep(pace)
        yield chunk


PRODUCERS: Final[dict[str, Producer]] = {
    "usual": usual,
    "due": due,
    "proxied": proxied,
    "frozen": frozen,
}


def chosen(request: Request) -> AsyncIterator[str]:
    """The producer that the reader asks for."""
    return PRODUCERS[request.query_params.get("producer", "usual")](request)


async def starlette(request: Request) -> StreamingResponse:
    """Starlette's own response: a send for each chunk."""
    frames = (f"data: {token}\n\n" async for token in chosen(request))
    return StreamingResponse(frames, media_type=EVENTS)


async def each(scope: Any, receive: Any, send: Any) -> None:
    """Plain ASGI, the least that a send for each chunk can cost."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    async for token in chosen(Request(scope)):
        frame = f"data: {token}\n\n".encode()
        await send({"type": "http.response.body", "body": frame, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def sse_starlette(request: Request) -> EventSourceResponse:
    """sse-starlette's response."""
    return EventSourceResponse(chosen(request))


@guard_stream(media_type=EVENTS)
async def guarded(request: Request) -> AsyncIterator[str]:
    """A producer under `guard_stream`."""
    return chosen(request)


@guard_stream(media_type="text/plain")
async def plain(request: Request) -> AsyncIterator[str]:
    """The same, without frames."""
    return chosen(request)


ACKNOWLEDGE: Final = Acknowledge()


@guard_stream(media_type=EVENTS, acknowledge=ACKNOWLEDGE)
async def acknowledged(request: Request) -> AsyncIterator[str]:
    """The same, for readers that acknowledge."""
    return chosen(request)


def fastapi() -> FastAPI:
    """FastAPI's own events, and the same endpoint under `guard_stream`."""
    app = FastAPI()

    async def events(request: Request) -> AsyncIterator[str]:
        async for token in chosen(request):
            yield token

    app.get("/own", response_class=FastAPIEvents)(events)
    app.get("/guarded")(guard_stream(media_type=EVENTS)(events))
    return app


ROUTES: Final = [
    Route("/starlette", starlette),
    Route("/starlette-guarded", guard_stream(starlette)),
    Route("/sse", sse_starlette),
    Route("/sse-guarded", guard_stream(sse_starlette)),
    Route("/guarded", guarded),
    Route("/plain", plain),
    Route("/acknowledged", acknowledged),
    Mount("/streams", ACKNOWLEDGE),
    Mount("/fastapi", fastapi()),
]


class Application:
    """Plain below `/`, under the middleware below `/under/`; `/state` says how the process is, `/cpu` what it took.

    Args:
        consumer_stall: the middleware's.
    """

    def __init__(self, consumer_stall: float | None = None) -> None:
        self.causes: Counter[str] = Counter()
        self._plain = Starlette(routes=ROUTES)
        self._django = django_app.applications()
        self._under = StreamGuardMiddleware(
            Starlette(routes=ROUTES), on_receipt=self._count, consumer_stall=consumer_stall
        )

    def _count(self, receipt: Receipt) -> None:
        self.causes[str(receipt.cause)] += 1

    async def __call__(
        self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Answer one request."""
        path: str = scope.get("path", "")
        if path == "/state":
            await self._state(send)
        elif path == "/cpu":
            await cpu(scope, receive, send)
        elif path.startswith("/django/"):
            mount, _, rest = path.rpartition("/")
            await self._django[mount](dict(scope, path=f"/{rest}"), receive, send)
        elif path == "/each":
            await each(scope, receive, send)
        elif path.startswith("/under/"):
            await self._under(dict(scope, path=path.removeprefix("/under")), receive, send)
        else:
            await self._plain(scope, receive, send)

    async def _state(self, send: Callable[[Any], Awaitable[None]]) -> None:
        body = json.dumps(measured() | {"causes": dict(self.causes)}).encode()
        headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def measured() -> dict[str, Any]:
    """How this process is."""
    gc.collect()
    return {
        "cpu_ns": time.process_time_ns(),
        "resident": int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE,
        "allocated": tracemalloc.get_traced_memory()[0],
        "tasks": len(asyncio.all_tasks()),
        "sockets": sum(map(_is_socket, Path("/proc/self/fd").iterdir())),
        # By type: to ask a lazy object for its class may make it.
        "sessions": sum(issubclass(type(each), StreamSession) for each in gc.get_objects()),
    }


def _is_socket(descriptor: Path) -> bool:
    try:
        return str(descriptor.readlink()).startswith("socket:")
    except OSError:
        return False  # The directory's own descriptor is gone by now.
