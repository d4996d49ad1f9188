"""Endpoints that were written without StreamGuard, under nothing but the middleware: they end with their reader."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
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
from streamguard_core import UsageError

from .driver import Engine, Mode, Server, eventually

SPECS = pytest.mark.parametrize("spec", ["2.3", "2.4"])


async def pass_on(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """What a `BaseHTTPMiddleware` does at least."""
    return await call_next(request)


def guarded(endpoint: Any, layers: int = 0, **options: Any) -> Starlette:
    """A Starlette application with nothing but the line `add_middleware`, and layers below it."""
    app = Starlette(routes=[Route("/", endpoint, methods=["GET", "POST"])])
    for _ in range(layers):
        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    app.add_middleware(StreamGuardMiddleware, **options)
    return app


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
    async with Server(guarded(streaming(engine, held), layers), spec=spec, mode=mode) as server:
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
    async with Server(guarded(streaming(engine, held), layers), spec=spec) as server:
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
    """Its next item is not asked for, and it is closed in a thread although nobody else would."""
    ask, closed = threading.Event(), threading.Event()
    made, held = [0], list[Any]()

    def tokens() -> Iterator[str]:
        try:
            while True:
                made[0] += 1
                yield f"token{made[0]} "
                ask.wait(5)
                ask.clear()
        finally:
            closed.set()

    async def endpoint(request: Request) -> Response:
        held.append(tokens())
        return StreamingResponse(held[0])

    async with Server(guarded(endpoint, layers), spec=spec) as server:
        await server.until(lambda: "token1" in server.text)
        server.leave()
        await asyncio.sleep(0)
        ask.set()
        await server.ended()
        assert closed.is_set()
    assert made[0] <= 2


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

    async with Server(guarded(endpoint), spec=spec) as server:
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

    async with Server(guarded(endpoint), spec=spec) as server:
        await server.until(lambda: "token30" in server.text)
        assert not any(asked)
        server.leave()
        await server.ended()
        assert engine.closed


async def test_an_application_that_swallows_its_cancellation() -> None:
    """It is cancelled at each further send, and ends with its own last item; nothing reaches the server."""
    swallowed = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal swallowed
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(5):
            try:
                await send({"type": "http.response.body", "body": b"a", "more_body": True})
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                swallowed += 1

    async with Server(StreamGuardMiddleware(app)) as server:
        await server.until(lambda: bool(server.bodies))
        server.leave()
        await server.ended()
    assert swallowed >= 3
    assert server.sent_after_leaving == 0


async def test_a_background_task_runs_after_the_reader_has_left() -> None:
    """A framework that listens unwinds by itself, and what it runs behind a response still runs."""
    engine, ran = Engine(1), list[bool]()

    async def behind() -> None:
        await asyncio.sleep(0.1)
        ran.append(engine.closed)

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(engine.stream(), background=BackgroundTask(behind))

    async with Server(guarded(endpoint), spec="2.3") as server:
        await server.until(lambda: "token1" in server.text)
        server.stall()
        engine.make(9)
        await eventually(lambda: server.senders)
        server.leave(release=False)
        await server.ended()
    assert ran == [True]


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
            await asyncio.sleep(0.05)

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

    return guarded(endpoint)


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
    app = Starlette(routes=[Mount("/", guarded(streaming(engine, [])))])
    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    app.add_middleware(StreamGuardMiddleware)
    app.add_middleware(StreamGuardMiddleware)
    return app


def below_base_middleware(engine: Engine) -> Any:
    """Not outermost: another middleware reads `receive` above."""
    app = guarded(streaming(engine, []))
    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
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


# -- requests without a stream ---------------------------------------------------------------------


def answering(seconds: float, began: asyncio.Event, ended: list[str]) -> Any:
    """An endpoint that works for a while and then answers."""

    async def endpoint(request: Request) -> Response:
        await request.body()
        try:
            began.set()
            await asyncio.sleep(seconds)
            ended.append("done")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return Response("hello")

    return endpoint


@pytest.mark.parametrize(
    ("option", "ending"), [("governed", "done"), ("none", "done"), ("all", "cancelled")]
)
async def test_a_plain_request_runs_to_its_end(option: str, ending: str) -> None:
    """What never touched a model is not cancelled when its reader leaves, unless that is asked for."""
    began, ended = asyncio.Event(), list[str]()
    app = guarded(answering(0.05, began, ended), cancel_requests=option)
    async with Server(app, method="POST") as server:
        await began.wait()
        server.leave()
        await server.ended()
    assert ended == [ending]


@pytest.mark.parametrize("layers", [0, 1])
async def test_a_request_that_waits_in_a_models_sdk_is_cancelled(layers: int) -> None:
    """The SDK's client knows nothing of StreamGuard, and the endpoint does not stream."""
    openai = pytest.importorskip("openai")
    httpx = pytest.importorskip("httpx2")
    called, cancelled = asyncio.Event(), list[bool]()

    async def hang(_: Any) -> Any:
        called.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    client = openai.AsyncOpenAI(
        api_key="none", http_client=httpx.AsyncClient(transport=httpx.MockTransport(hang))
    )

    async def endpoint(request: Request) -> Response:
        await request.body()
        said = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hello"}]
        )
        return Response(said.id)

    async with Server(guarded(endpoint, layers), method="POST") as server:
        await called.wait()
        server.leave()
        await server.ended()
    assert cancelled == [True]


async def test_a_request_that_reads_no_body_is_watched_when_it_takes_its_time() -> None:
    """Nobody calls `receive`, and the reader's leaving is seen all the same."""
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    async with Server(StreamGuardMiddleware(app, cancel_requests="all")) as server:
        await eventually(lambda: server.receives)
        server.leave()
        await server.ended()
    assert ended == ["ended"]


def test_an_option_that_does_not_exist_is_refused() -> None:
    """What is wrong with the middleware's line is said when it is read."""
    with pytest.raises(UsageError, match="governed, all, none"):
        StreamGuardMiddleware(None, cancel_requests="some")  # type: ignore[arg-type]
