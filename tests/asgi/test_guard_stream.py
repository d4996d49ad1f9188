"""`guard_stream`: endpoints of every kind keep what they are to their framework, and are governed."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import Body, Depends, FastAPI, HTTPException
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from streamguard_asgi import GuardedResponse, StreamGuardMiddleware, current_scope, guard_stream
from streamguard_asgi.endpoints import REQUEST_PARAMETER
from streamguard_core import (
    Cause,
    CutOffError,
    Deadlines,
    LedgerError,
    MemoryLedger,
    StreamSession,
    UsageError,
)

from .driver import Engine, Server, eventually
from .endpoints import EVENTS, TAKEN_OVER, Mark, Prompt, pieces

KINDS = EVENTS | TAKEN_OVER


class Rig:
    """A FastAPI application with one endpoint under guard, and its receipts."""

    def __init__(self, endpoint: Callable[..., Any] | None = None, **options: Any) -> None:
        self.ledger = MemoryLedger()
        self.app = FastAPI()
        self.app.add_middleware(StreamGuardMiddleware, ledger=self.ledger)
        if endpoint is not None:
            guarded = guard_stream(**options)(endpoint)
            self.app.api_route("/{name}", methods=["GET", "HEAD"])(guarded)

    def server(self, path: str = "/x", **options: Any) -> Server:
        """One request to it."""
        return Server(self.app, path, **options)

    @property
    def causes(self) -> list[Cause]:
        """The causes of the receipts."""
        return [receipt.cause for receipt in self.ledger.receipts]


@pytest.mark.parametrize("name", EVENTS)
async def test_every_kind_of_endpoint_streams_events(name: str) -> None:
    """P25: path parameters, query and dependencies arrive, the answer is events, there is one receipt."""
    rig = Rig(EVENTS[name])
    server = await rig.server("/hello?loud=1&n=2").run()
    assert server.status == 200
    assert server.events[:-1] == [("message", "hello"), ("message", "!!")]
    assert server.events[-1][0] == "eos"
    assert rig.causes == ([Cause.COMPLETED] if name != "session" else [])


@pytest.mark.parametrize("name", TAKEN_OVER)
async def test_a_response_of_starlettes_stays_what_it_is(name: str) -> None:
    """Bytes, status, headers and media type are the application's; the stream is ours."""
    rig = Rig(TAKEN_OVER[name])
    server = await rig.server("/hello?loud=1&n=2").run()
    assert server.text == "hello!!"
    assert (server.status, server.headers["x-mine"]) == (201, "1")
    assert server.headers["content-type"] == "text/plain; charset=utf-8"
    assert server.complete
    assert rig.causes == [Cause.COMPLETED]


@pytest.mark.parametrize("name", KINDS)
async def test_bad_parameters_are_refused_by_the_framework(name: str) -> None:
    """Validation is the framework's as before, and comes before any stream."""
    rig = Rig(KINDS[name])
    server = await rig.server("/hello?n=many").run()
    assert server.status == 422
    assert rig.causes == []


def _operations(endpoint: Callable[..., Any]) -> Any:
    app = FastAPI()
    app.get("/{name}", response_model=None)(endpoint)
    return app.openapi()


@pytest.mark.parametrize("name", KINDS)
def test_the_documentation_stays_the_same(name: str) -> None:
    """P26: OpenAPI of the guarded endpoint is that of the bare one: names, parameters, descriptions."""
    # Not every FastAPI can document an instance or a partial; their like is a function.
    named = name not in ("instance", "partial")
    bare = _operations(KINDS[name] if named else EVENTS["async_generator"])
    guarded = _operations(guard_stream(KINDS[name]))
    before, after = (schema["paths"]["/{name}"]["get"] for schema in (bare, guarded))
    for operation in (before, after):
        operation["responses"].pop("200")
        for key in () if named else ("operationId", "summary", "description"):
            operation.pop(key, None)
    assert after == before
    assert "streamguard" not in json.dumps(guarded)


def test_the_documented_response_is_chosen_as_always() -> None:
    """`response_class` documents the media type."""
    app = FastAPI()
    app.get("/{name}", response_class=GuardedResponse)(guard_stream(EVENTS["generator"]))
    responses = app.openapi()["paths"]["/{name}"]["get"]["responses"]
    assert "text/event-stream" in responses["200"]["content"]


async def test_bodies_and_dependencies_with_yield() -> None:
    """A JSON body is read and validated; a dependency with `yield` lives as long as the stream."""
    log: list[str] = []
    rig = Rig()

    def database() -> Iterator[str]:
        log.append("open")
        yield "db"
        log.append("close")

    @rig.app.post("/")
    @guard_stream
    async def chat(
        prompt: Annotated[Prompt, Body()], mark: Mark, db: str = Depends(database)
    ) -> Any:
        yield prompt.text
        log.append("streamed")
        yield db + mark

    body = [b'{"text"', b': "hi"}']
    headers = [(b"content-type", b"application/json")]
    server = await rig.server("/", method="POST", body=body, headers=headers).run()
    assert server.events[:-1] == [("message", "hi"), ("message", "db.")]
    assert log == ["open", "streamed", "close"]


async def test_starlette_routes_and_classes() -> None:
    """Starlette hands the request over; an `HTTPEndpoint` is guarded as a whole."""
    ledger = MemoryLedger()

    @guard_stream
    async def chat(request: Request) -> Any:
        yield request.path_params["name"]

    @guard_stream
    class Chat(HTTPEndpoint):
        """A class."""

        async def get(self, request: Request) -> Any:
            return pieces(request.path_params["name"])

        def post(self, request: Request) -> Any:
            yield "posted"

    routes = [Route("/f/{name}", chat), Route("/c/{name}", Chat)]
    app = Starlette(routes=routes)
    app.add_middleware(StreamGuardMiddleware, ledger=ledger)
    for path, method, text in (
        ("/f/a", "GET", "a"),
        ("/c/b", "GET", "b"),
        ("/c/b", "POST", "posted"),
    ):
        server = await Server(app, path, method=method).run()
        assert server.events[0] == ("message", text)
    assert len(ledger.receipts) == 3
    assert (await Server(app, "/c/b", method="DELETE").run()).status == 405


async def test_starlette_adds_head_and_nothing_is_generated() -> None:
    """P27: the endpoint is not called, no stream opened; the headers are those of GET."""
    called: list[int] = []

    @guard_stream
    async def chat(request: Request) -> Any:
        called.append(1)
        return pieces("a")

    server = await Server(Starlette(routes=[Route("/", chat)]), method="HEAD").run()
    assert (called, server.bodies, server.status) == ([], [b""], 200)
    rig = Rig(EVENTS["coroutine"])
    server = await rig.server(method="HEAD").run()
    assert server.headers["content-type"].startswith("text/event-stream")
    assert rig.ledger.opened == []


async def test_the_stream_is_open_before_the_endpoint_runs() -> None:
    """The OPEN record is durable, and the session is the scope's, when the body could call a provider."""
    seen: list[Any] = []
    rig = Rig()

    @rig.app.get("/")
    @guard_stream(model="m", max_tokens=5, tags={"route": "chat"})
    async def chat() -> Any:
        scope = current_scope()
        assert scope is not None
        assert scope.session is not None
        scope.session.identify(request_id="r-1")
        seen.extend(rig.ledger.opened)
        return pieces("a")

    await rig.server("/").run()
    assert [(record.model, record.max_tokens, record.tags) for record in seen] == [
        ("m", 5, {"route": "chat"})
    ]
    (receipt,) = rig.ledger.receipts
    assert (receipt.stream_id, receipt.request_id) == (seen[0].stream_id, "r-1")


async def test_without_a_record_the_endpoint_is_not_called() -> None:
    """A ledger that cannot write keeps money from being spent: 503."""

    class Full(MemoryLedger):
        def append_open(self, record: Any) -> Any:
            future = super().append_open(record)
            future = type(future)()
            future.set_exception(LedgerError("disk full"))
            return future

    called: list[int] = []

    async def chat() -> Any:
        called.append(1)
        return pieces("a")

    server = await Rig(chat, ledger=Full()).server().run()
    assert (server.status, called) == (503, [])


@pytest.mark.parametrize("kind", [HTTPException, StarletteHTTPException])
async def test_an_http_exception_is_answered_as_always(kind: Any) -> None:
    """The framework's handler answers; the receipt says that there was no stream, and why."""

    async def chat() -> Any:
        raise kind(418, "no coffee")

    rig = Rig(chat)
    server = await rig.server().run()
    assert (server.status, json.loads(server.text)) == (418, {"detail": "no coffee"})
    (receipt,) = rig.ledger.receipts
    assert (receipt.cause, receipt.produced) == (Cause.PRODUCER_ERROR, 0)
    assert receipt.detail == "the endpoint raised HTTPException"


async def test_an_answer_that_is_no_stream_is_answered_as_always() -> None:
    """JSON, a plain response, a model, a list: what the framework makes of them."""
    answers: list[Any] = [
        {"a": 1},
        [1, 2],
        "text",
        None,
        Prompt(text="x"),
        JSONResponse({"b": 2}, 202),
    ]
    for answer in answers:
        rig = Rig(functools.partial(_answering, answer))
        server = await rig.server().run()
        assert json.loads(server.text) == _plain(answer)
        (receipt,) = rig.ledger.receipts
        assert (receipt.cause, receipt.produced) == (Cause.COMPLETED, 0)


async def _answering(answer: Any, /) -> Any:
    return answer


def _plain(answer: Any) -> Any:
    """What a client reads."""
    if isinstance(answer, JSONResponse):
        return json.loads(bytes(answer.body))
    return answer.model_dump() if isinstance(answer, Prompt) else answer


async def test_a_session_of_the_endpoints_own_is_the_only_one() -> None:
    """Said in the annotation, there is no second stream; unsaid, ours ends empty and theirs is streamed."""
    own = MemoryLedger()

    async def said() -> StreamSession:
        return StreamSession(pieces("a"), ledger=own)

    async def unsaid() -> Any:
        return StreamSession(pieces("a"), ledger=own)

    rig = Rig(said)
    server = await rig.server().run()
    assert server.events[0] == ("message", "a")
    assert (rig.causes, len(own.receipts)) == ([], 1)
    rig = Rig(unsaid)
    assert (await rig.server().run()).events[0] == ("message", "a")
    assert (rig.causes, rig.ledger.receipts[0].produced, len(own.receipts)) == (
        [Cause.COMPLETED],
        0,
        2,
    )


async def test_sse_starlettes_response_is_taken_over_too() -> None:
    """Its items are encoded by its own rules; its headers stay; a blocking or failing one is governed."""
    sse = pytest.importorskip("sse_starlette")

    async def chat() -> Any:
        async def items() -> Any:
            yield {"data": "a\nb", "event": "note"}
            yield "plain"

        return sse.EventSourceResponse(items(), headers={"x-mine": "1"})

    rig = Rig(chat)
    server = await rig.server().run()
    assert server.text == "event: note\r\ndata: a\r\ndata: b\r\n\r\ndata: plain\r\n\r\n"
    assert server.headers["x-mine"] == "1"
    assert rig.causes == [Cause.COMPLETED]


async def test_the_reader_of_sse_starlettes_response_leaves() -> None:
    """Its generator is closed, not dropped, wherever it is."""
    sse = pytest.importorskip("sse_starlette")
    engine = Engine(2)

    async def chat() -> Any:
        return sse.EventSourceResponse(engine.stream())

    for stalled in (False, True):
        engine = Engine(2)
        rig = Rig(chat)
        async with rig.server() as server:
            await server.until(lambda: server.text.count("token") == 2)
            if stalled:
                server.stall()
                engine.make(50)
                await eventually(lambda: server.senders)
            server.leave()
            await server.ended()
        assert rig.causes == [Cause.CLIENT_DISCONNECT]
        assert engine.closed


async def test_failures_of_taken_over_responses_do_not_end_cleanly() -> None:
    """G13: bytes that broke off are not followed by a last message."""

    async def failing() -> Any:
        yield b"half"
        raise ValueError

    async def chat() -> Any:
        return StreamingResponse(failing())

    rig = Rig(chat)
    server = await rig.server().run()
    assert server.text == "half"
    assert not server.complete
    assert rig.causes == [Cause.PRODUCER_ERROR]


# -- the reader leaves before there is a response --------------------------------------------------


async def test_an_endpoint_that_waits_for_its_provider_is_cancelled() -> None:
    """The reader leaves while the coroutine still awaits `create()`: it is cancelled at once."""
    waiting, cancelled = asyncio.Event(), []

    async def chat() -> Any:
        try:
            waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    rig = Rig(chat)
    async with rig.server() as server:
        await waiting.wait()
        server.leave()
        await server.ended()
        assert server.task is not None
        assert server.task.cancelling() == 0
    assert cancelled == [1]
    assert rig.causes == [Cause.CLIENT_DISCONNECT]
    assert server.sent == []
    assert server.sent_after_leaving == 0


async def test_an_endpoint_that_ignores_the_cutoff_is_cleaned_up_after() -> None:
    """What it opened in spite of everything is closed, not streamed."""
    waiting, let_go, closed = asyncio.Event(), asyncio.Event(), []

    class Opened:
        def __aiter__(self) -> Any:
            raise AssertionError("read")

        async def close(self) -> None:
            closed.append(1)

    async def chat() -> Any:
        while not let_go.is_set():
            try:
                waiting.set()
                await let_go.wait()
            except asyncio.CancelledError:
                let_go.set()
        return Opened()

    rig = Rig(chat)
    async with rig.server() as server:
        await waiting.wait()
        server.leave()
        await server.ended()
    assert closed == [1]
    assert rig.causes == [Cause.CLIENT_DISCONNECT]


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_function_in_a_thread_is_left_and_its_result_closed(wrapped: bool) -> None:
    """A thread cannot be interrupted: the request ends at once, and what the thread returns later is closed."""
    running, let_go, closed = threading.Event(), threading.Event(), []

    class Opened:
        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> Any:
            raise AssertionError("read")

        async def aclose(self) -> None:
            closed.append(1)

    def chat() -> Any:
        running.set()
        assert let_go.wait(5)
        return StreamingResponse(Opened()) if wrapped else Opened()

    rig = Rig(chat)
    async with rig.server() as server:
        await eventually(running.is_set)
        server.leave()
        await server.ended()
        assert rig.causes == [Cause.CLIENT_DISCONNECT]
        let_go.set()
        await eventually(lambda: closed)
    assert closed == [1]


async def test_a_thread_that_fails_after_its_reader_left_hurts_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it raises then, or what closing its result raises, is logged by its type."""
    for closes in (False, True):
        running, let_go = threading.Event(), threading.Event()

        class Broken:
            async def aclose(self) -> None:
                raise ValueError("sk-secret")

        def chat(running: Any = running, let_go: Any = let_go, closes: bool = closes) -> Any:
            running.set()
            assert let_go.wait(5)
            if closes:
                return Broken()
            raise KeyError("sk-secret")

        app = StreamGuardMiddleware(Starlette(routes=[Route("/", _bare(guard_stream(chat)))]))
        with caplog.at_level(logging.INFO, "streamguard"):
            async with Server(app) as server:
                await eventually(running.is_set)
                server.leave()
                await server.ended()
                let_go.set()
                await eventually(lambda app=app: not app._late)  # type: ignore[misc]
    assert "an endpoint raised KeyError after its stream was cut off" in caplog.text
    assert "closing what an endpoint had returned raised ValueError" in caplog.text
    assert "secret" not in caplog.text


def _bare(guarded: Any) -> Any:
    async def endpoint(request: Request) -> Any:
        return await guarded(**{REQUEST_PARAMETER: request})

    return endpoint


@pytest.mark.parametrize("threaded", [False, True])
async def test_a_reader_that_left_before_costs_nothing(threaded: bool) -> None:
    """Gone before the endpoint began: it is not called, and the receipt's cost is a definite zero."""
    called: list[int] = []

    def function() -> Any:
        called.append(1)
        return pieces("a")

    async def coroutine() -> Any:
        return function()

    rig = Rig(function if threaded else coroutine)
    server = rig.server()
    server.leave()
    await server.run()
    await eventually(lambda: len(asyncio.all_tasks()) == 1)
    assert called == []
    (receipt,) = rig.ledger.receipts
    assert (receipt.cause, receipt.produced) == (Cause.CLIENT_DISCONNECT, 0)


async def test_a_deadline_before_the_response_is_a_status() -> None:
    """A provider that never answers is a 504 and an explicit end, not a hanging request."""

    async def chat() -> Any:
        await asyncio.Event().wait()

    rig = Rig(chat, deadlines=Deadlines(first_token=0.02))
    server = await rig.server().run()
    assert server.status == 504
    assert json.loads(server.events[0][1])["cause"] == "TIMEOUT_FIRST_TOKEN"
    assert rig.causes == [Cause.TIMEOUT_FIRST_TOKEN]


async def test_what_the_cutoff_breaks_in_an_endpoint_is_not_its_failure() -> None:
    """The cause is the reader's leaving, also when the endpoint turns its broken call into an HTTP error."""
    waiting = asyncio.Event()

    async def chat() -> Any:
        try:
            waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise HTTPException(502, "provider broke") from None

    rig = Rig(chat)
    async with rig.server() as server:
        await waiting.wait()
        server.leave()
        await server.ended()
    assert rig.causes == [Cause.CLIENT_DISCONNECT]


async def test_a_server_that_cancels_the_endpoint_is_told_apart() -> None:
    """A host that cancels before there is a response: its cancellation propagates, one receipt, its cause."""
    waiting = asyncio.Event()

    async def chat() -> Any:
        waiting.set()
        await asyncio.Event().wait()

    rig = Rig(chat)
    async with rig.server() as server:
        await waiting.wait()
        assert server.task is not None
        server.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await server.ended()
    assert rig.causes == [Cause.OPERATOR_CANCEL]


# -- alone, and wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
async def test_it_works_without_the_middleware(name: str) -> None:
    """The response watches for itself; receipts are on the request all the same."""
    app = FastAPI()
    app.get("/{name}")(guard_stream(KINDS[name]))
    server = await Server(app, "/hello?loud=1&n=2").run()
    assert "hello" in server.text
    (receipt,) = server.scope["state"]["streamguard"].receipts
    assert receipt.cause is Cause.COMPLETED


async def test_failures_are_sealed_without_the_middleware_too() -> None:
    """Nobody else would end the stream of an endpoint that raised."""
    app = FastAPI()

    @app.get("/")
    @guard_stream
    async def chat() -> Any:
        raise HTTPException(418)

    server = await Server(app).run()
    assert server.status == 418
    (receipt,) = server.scope["state"]["streamguard"].receipts
    assert receipt.cause is Cause.PRODUCER_ERROR


async def test_it_can_be_called_directly() -> None:
    """In a unit test an endpoint is a function: it returns the response."""

    @guard_stream
    async def chat(name: str) -> Any:
        yield name

    response = await chat("a")
    assert isinstance(response, GuardedResponse)
    assert (await Server(response).run()).events[0] == ("message", "a")


def test_wrong_use_is_said_where_it_is_written() -> None:
    """At decoration, not at the first request."""
    with pytest.raises(UsageError, match="put on a int"):
        guard_stream(3)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="max_tokens=-1"):
        guard_stream(max_tokens=-1)(pieces)
    with pytest.raises(UsageError, match="ping=0"):
        guard_stream(ping=0)(pieces)
    with pytest.raises(TypeError, match="nonsense"):
        guard_stream(nonsense=1)(pieces)  # type: ignore[call-overload]


async def test_options_given_twice_are_refused() -> None:
    """A `GuardedResponse` with options of its own, under `guard_stream`: which would hold?"""

    async def chat() -> Any:
        return GuardedResponse(pieces("a"), tags={"a": "b"})

    with pytest.raises(UsageError, match="give them to guard_stream"):
        await Rig(chat).server().run()


async def test_a_cutoff_of_the_endpoints_own_calls_is_answered() -> None:
    """A guarded call that refuses to run after the cutoff raises in the endpoint; the reader learns the cause."""

    async def chat() -> Any:
        scope = current_scope()
        assert scope is not None
        scope.terminate(Cause.BUDGET, "used up")
        raise CutOffError("no further call")

    server = await Rig(chat).server().run()
    assert server.status == 403
    assert json.loads(server.events[0][1])["cause"] == "BUDGET"
