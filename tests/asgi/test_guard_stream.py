"""`guard_stream`: endpoints of every kind keep what they are to their framework, and are governed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import Body, Depends, FastAPI, HTTPException
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from streamguard_asgi import GuardedResponse, StreamGuardMiddleware, current_scope, guard_stream
from streamguard_core import (
    Cause,
    CutOffError,
    LedgerError,
    MemoryLedger,
    StreamSession,
    UsageError,
)

from .driver import Server
from .endpoints import EVENTS, KINDS, Mark, Prompt, Rig, pieces


@pytest.mark.parametrize("name", EVENTS)
async def test_every_kind_of_endpoint_streams_events(name: str) -> None:
    """P25: path parameters, query and dependencies arrive, the answer is events, there is one receipt."""
    rig = Rig(EVENTS[name])
    server = await rig.server("/hello?loud=1&n=2").run()
    assert server.status == 200
    assert server.events[:-1] == [("message", "hello"), ("message", "!!")]
    assert server.events[-1][0] == "eos"
    assert rig.causes == ([Cause.COMPLETED] if name != "session" else [])


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
    assert (receipt.cause, receipt.produced) == (Cause.CONSUMER_ERROR, 0)
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
    assert receipt.cause is Cause.CONSUMER_ERROR


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
