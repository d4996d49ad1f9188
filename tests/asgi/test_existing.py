"""Endpoints that were written without StreamGuard, under nothing but the middleware: they end with their reader."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse as FastAPIStreamingResponse
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route

from streamguard_asgi import StreamGuardMiddleware
from streamguard_asgi.unwinding import MOMENT
from streamguard_core import current_scope
from streamguard_core.testing import run

from .driver import BOUND, Engine, Mode, Server, eventually
from .endpoints import existing, passing_on

SPECS = pytest.mark.parametrize("spec", ["2.3", "2.4"])


def streaming(engine: Engine, held: list[Any]) -> Any:
    """An endpoint that streams the engine's tokens; `held` keeps the generator alive."""

    async def endpoint(request: Request) -> Response:
        held.append(engine.stream())
        return StreamingResponse(held[0])

    return endpoint


@SPECS
@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("mode", ["silent", "raising", "blocking"])
async def test_left_while_the_model_is_silent(spec: str, layers: int, mode: Mode) -> None:
    """The generator waits for its next token when the reader leaves: it is ended, and nothing is generated."""
    engine, held = Engine(2), list[Any]()
    async with Server(existing(streaming(engine, held), layers), spec=spec, mode=mode) as server:
        await server.until(lambda: "token2" in server.text)
        server.leave()
        await server.ended()
        engine.make(9)
        await eventually(lambda: engine.closed)
    assert engine.generated == 2


@SPECS
@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("release", [True, False])
async def test_left_while_a_send_waits_for_a_slow_reader(
    spec: str, layers: int, release: bool
) -> None:
    """Suspended at its `yield`, and held by somebody: the generator is closed before the request is over."""
    engine, held = Engine(1), list[Any]()
    async with Server(existing(streaming(engine, held), layers), spec=spec) as server:
        await server.until(lambda: "token1" in server.text)
        server.stall()
        engine.make(100)
        await eventually(lambda: server.senders)
        server.leave(release=release)
        await server.ended()
        assert engine.closed
    # Each layer holds one chunk and asks for the next one.
    assert engine.generated <= 3 + layers


@SPECS
@pytest.mark.parametrize("layers", [0, 1])
async def test_left_by_the_reader_of_a_sync_generator(spec: str, layers: int) -> None:
    """A thread is inside it, which nobody can end: it is closed when the thread is out, and hardly asked again."""
    paces, waiting = threading.Semaphore(0), threading.Event()
    closed, made, held = threading.Event(), [0], list[Any]()

    def tokens() -> Iterator[str]:
        try:
            while True:
                made[0] += 1
                yield f"token{made[0]} "
                waiting.set()
                paces.acquire(timeout=BOUND)
        finally:
            closed.set()

    async def endpoint(request: Request) -> Response:
        held.extend((current_scope(), tokens()))
        return StreamingResponse(held[1])

    async with Server(existing(endpoint, layers), spec=spec) as server:
        await server.until(lambda: "token1" in server.text)
        await eventually(waiting.is_set)
        server.leave()
        await eventually(lambda: held[0].closed)
        paces.release(1 + layers)
        await server.ended()
        assert closed.is_set()
    # A layer that hands one on has asked for the next one.
    assert made[0] <= 2 + layers


@SPECS
async def test_left_by_the_reader_of_a_sync_generator_in_the_middle_of_a_send(spec: str) -> None:
    """No thread is inside it then: it is closed, and its last item was the one in the send."""
    closed, held = threading.Event(), list[Any]()

    def tokens() -> Iterator[str]:
        try:
            for number in itertools.count():
                yield f"token{number} "
        finally:
            closed.set()

    async def endpoint(request: Request) -> Response:
        held.append(tokens())
        return StreamingResponse(held[0])

    async with Server(existing(endpoint), spec=spec) as server:
        await server.until(lambda: bool(server.bodies))
        server.stall()
        await eventually(lambda: server.senders)
        server.leave(release=False)
        await server.ended()
        assert closed.is_set()


@pytest.mark.parametrize("mode", ["silent", "blocking"])
async def test_an_application_that_only_sends(mode: Mode) -> None:
    """It never calls `receive`: it is cancelled, by us and counted, and the server sees a clean return."""
    sends = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sends
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
            sends += 1
            await asyncio.sleep(0)

    async with Server(StreamGuardMiddleware(app), mode=mode) as server:
        await server.until(lambda: len(server.bodies) > 3)
        server.leave()
        await server.ended()
        assert server.task is not None
        assert server.task.cancelling() == 0
    assert sends <= len(server.bodies) + 1
    assert server.sent_after_leaving <= 1


@SPECS
async def test_an_application_that_asks_whether_its_reader_is_there(spec: str) -> None:
    """`is_disconnected()` cancels its `receive()` each time: it is told the truth, and ended when it is over."""
    asked, engine = list[bool](), Engine(30)

    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            async for token in engine.stream():
                asked.append(await request.is_disconnected())
                if asked[-1]:
                    break
                yield token

        return StreamingResponse(body())

    async with Server(existing(endpoint), spec=spec) as server:
        await server.until(lambda: "token30" in server.text)
        assert not any(asked)
        server.leave()
        await server.ended()
        assert engine.closed


async def test_an_application_that_swallows_its_cancellation() -> None:
    """It is cancelled at each further send, and ends with its own last item; nothing reaches the server."""
    swallowed = 0
    gone = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal swallowed
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(5):
            try:
                await send({"type": "http.response.body", "body": b"a", "more_body": True})
                await gone.wait()
            except asyncio.CancelledError:
                swallowed += 1

    async with Server(StreamGuardMiddleware(app)) as server:
        await server.until(lambda: bool(server.bodies))
        server.leave()
        gone.set()
        await server.ended()
    assert swallowed >= 3
    assert server.sent_after_leaving == 0


def test_a_background_task_runs_after_the_reader_has_left() -> None:
    """A framework that listens unwinds by itself, and what it runs behind a response still runs."""

    async def main() -> None:
        engine, ran = Engine(1), list[bool]()

        async def behind() -> None:
            await asyncio.sleep(2 * MOMENT)
            ran.append(engine.closed)

        async def endpoint(request: Request) -> Response:
            return StreamingResponse(engine.stream(), background=BackgroundTask(behind))

        async with Server(existing(endpoint), spec="2.3") as server:
            await server.until(lambda: "token1" in server.text)
            server.stall()
            engine.make(9)
            await eventually(lambda: server.senders)
            server.leave(release=False)
            await server.ended()
        assert ran == [True]

    run(main())


async def test_somebody_elses_cancellation_propagates() -> None:
    """The server cancels a request whose reader has left: that is not ours to swallow."""
    engine = Engine(1)
    told = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            async for token in engine.stream():
                body = token.encode()
                await send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            told.set()
            await asyncio.Event().wait()

    async with Server(StreamGuardMiddleware(app)) as server:
        await server.until(lambda: "token1" in server.text)
        server.leave()
        await told.wait()
        assert server.task is not None
        server.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await server.ended()
        assert server.task.cancelling() == 1


# -- other frameworks and layers -------------------------------------------------------------------


def with_sse_starlette(engine: Engine) -> Any:
    """sse-starlette's response."""

    async def endpoint(request: Request) -> Response:
        return EventSourceResponse(engine.stream())

    return existing(endpoint)


def with_fastapi(engine: Engine) -> Any:
    """FastAPI, with its streaming response."""
    app = FastAPI()

    @app.get("/")
    async def endpoint() -> FastAPIStreamingResponse:
        return FastAPIStreamingResponse(engine.stream())

    app.add_middleware(StreamGuardMiddleware)
    return app


def with_gzip(engine: Engine) -> Any:
    """Below a middleware that changes what is sent."""
    app = Starlette(routes=[Route("/", streaming(engine, []))])
    app.add_middleware(GZipMiddleware)
    app.add_middleware(StreamGuardMiddleware)
    return app


def mounted_and_twice(engine: Engine) -> Any:
    """A guarded application inside a guarded one, with a middleware in between."""
    app = Starlette(routes=[Mount("/", existing(streaming(engine, [])))])
    app.add_middleware(BaseHTTPMiddleware, dispatch=passing_on)
    app.add_middleware(StreamGuardMiddleware)
    app.add_middleware(StreamGuardMiddleware)
    return app


def below_base_middleware(engine: Engine) -> Any:
    """Not outermost: another middleware reads `receive` above."""
    app = existing(streaming(engine, []))
    app.add_middleware(BaseHTTPMiddleware, dispatch=passing_on)
    return app


@SPECS
@pytest.mark.parametrize(
    "make",
    [with_sse_starlette, with_fastapi, with_gzip, mounted_and_twice, below_base_middleware],
)
@pytest.mark.parametrize("slow", [False, True])
async def test_whatever_stands_in_between(spec: str, make: Any, slow: bool) -> None:
    """The generator is closed when the request is over, with a reader that waits or one that is slow."""
    engine = Engine(1)
    async with Server(make(engine), spec=spec) as server:
        await server.until(lambda: bool(server.bodies))
        if slow:
            server.stall()
            engine.make(100)
            await eventually(lambda: server.senders)
        server.leave()
        await server.ended()
        await eventually(lambda: engine.closed)
    assert engine.generated <= 6
