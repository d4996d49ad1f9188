"""A compressing middleware in the stack: every event reaches its reader when it is sent, whole and in order."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware, GZipResponder
from starlette.requests import Request
from starlette.routing import Route

from streamguard_asgi import StreamGuardMiddleware, guard_stream

from .driver import Engine, Server

FLUSHES = hasattr(GZipResponder, "compressor")
"""Older versions of Starlette keep what they compress until their buffer is full; events they leave alone."""
EVERYTHING: dict[str, Any] = {"minimum_size": 1, "exclude_content_types": ()} if FLUSHES else {}
GUARD = Middleware(StreamGuardMiddleware)
ORDERS = {"above": lambda zipped: [zipped, GUARD], "below": lambda zipped: [GUARD, zipped]}


def server(endpoint: Any, order: str, accept: str, **options: Any) -> Server:
    """One request of a reader that takes gzip, to an application with both middleware."""
    stack = ORDERS[order](Middleware(GZipMiddleware, **options))
    app = Starlette(routes=[Route("/", endpoint)], middleware=stack)
    return Server(app, headers=[(b"accept", accept.encode()), (b"accept-encoding", b"gzip")])


def plain(server: Server) -> str:
    """What a reader can make of what was sent until now."""
    body = b"".join(server.bodies)
    if server.headers.get("content-encoding") == "gzip":
        body = zlib.decompressobj(wbits=31).decompress(body)
    return body.decode()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("accept", "options", "encoding"),
    [
        ("text/event-stream", {}, None),
        pytest.param(
            "text/event-stream",
            EVERYTHING,
            "gzip",
            marks=pytest.mark.skipif(not FLUSHES, reason="this Starlette never zips events"),
        ),
        pytest.param(
            "application/x-ndjson",
            EVERYTHING,
            "gzip",
            marks=pytest.mark.skipif(
                not FLUSHES, reason="this Starlette does not flush what it zips"
            ),
        ),
    ],
)
async def test_each_event_comes_at_once(
    order: str, accept: str, options: Any, encoding: str | None
) -> None:
    """While the producer thinks, everything before can be read; ids, texts and the end are whole."""
    engine = Engine(1)

    @guard_stream(ids=True)
    async def endpoint(request: Request) -> AsyncIterator[str]:
        return engine.stream()

    async with server(endpoint, order, accept, **options) as connection:
        for number in range(1, 6):
            await connection.until(partial(_has, connection, f"token{number} "))
            assert engine.generated == number
            engine.make(1)
        engine.finish()
        await connection.ended()
    text = plain(connection)
    assert connection.headers.get("content-encoding") == encoding
    assert "".join(f"token{number} " for number in range(1, 7)) == _texts(text)
    assert text.count("eos") == 1
    if accept == "text/event-stream":
        assert [line for line in text.split("\n") if line.startswith("id: ")] == [
            f"id: {number}" for number in range(1, 7)
        ]


def _has(connection: Server, token: str) -> bool:
    return bool(connection.bodies) and token in plain(connection)


def _texts(text: str) -> str:
    """The texts of events or of lines."""
    if not text.startswith("{"):
        blocks = [block for block in text.split("\n\n") if "event: eos" not in block]
        data = [line[6:] for block in blocks for line in block.split("\n") if "data: " in line]
        return "".join(data)
    return "".join(json.loads(line).get("text", "") for line in text.splitlines())


@pytest.mark.skipif(not FLUSHES, reason="this Starlette never zips events")
async def test_what_is_ready_together_is_compressed_together() -> None:
    """One flush for a batch, not one for each of its chunks: that is what keeps the ratio."""

    class Provider:
        async def stream(self, *, report: Any) -> AsyncIterator[list[str]]:
            for part in range(4):
                yield [f"a word of the answer {part} " for _ in range(16)]

    @guard_stream
    async def endpoint(request: Request) -> Any:
        return Provider()

    connection = await server(endpoint, "above", "*/*", **EVERYTHING).run()
    text = plain(connection)
    assert text.count("data: a word") == 64
    assert 'data: {"cause":"COMPLETED"' in text
    assert len([body for body in connection.bodies if body]) <= 7
    assert len(b"".join(connection.bodies)) < len(text) / 8
