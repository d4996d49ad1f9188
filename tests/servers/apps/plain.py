"""The smallest applications: they answer, and stream numbered events until they are ended. No StreamGuard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """ASGI: `/` answers, `/stream` streams until the reader leaves; it takes part in the lifespan."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/stream":
        leaving = asyncio.create_task(_left(receive))
        number = 0
        while not leaving.done():
            body = b"data: %d\n\n" % number
            await send({"type": "http.response.body", "body": body, "more_body": True})
            number += 1
            await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """WSGI: `/` answers, `/stream` streams until a write fails."""
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return _numbers() if environ["PATH_INFO"] == "/stream" else [b""]


def _numbers() -> Iterator[bytes]:
    number = 0
    while True:
        yield b"data: %d\n\n" % number
        number += 1
        time.sleep(0.01)
