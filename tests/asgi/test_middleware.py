"""The middleware: costs little, breaks nothing, sees everything, reports once."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from streamguard_asgi import (
    GuardedResponse,
    RequestGuard,
    StreamGuardMiddleware,
    current_scope,
    guard_stream,
)
from streamguard_core import (
    Cause,
    MemoryLedger,
    Receipt,
    StreamSession,
    UsageError,
)

from .driver import Engine, Server, causes, eventually


@pytest.mark.parametrize("kind", ["lifespan", "other"])
async def test_other_scopes_pass_through_untouched(kind: str) -> None:
    """P51: what is neither http nor a WebSocket gets the server's own; the lifespan if no handler is installed."""
    seen: list[Any] = []

    async def app(*arguments: Any) -> None:
        seen.extend(arguments)

    arguments: list[Any] = [{"type": kind}, object(), object()]
    await StreamGuardMiddleware(app, shutdown=False)(*arguments)
    assert all(one is other for one, other in zip(seen, arguments, strict=True))
    assert seen[0] == {"type": kind}


async def test_a_plain_request_costs_no_receive_and_no_task() -> None:
    """Where nothing streams and no body is read, nobody listens."""
    tasks: list[int] = []

    async def endpoint(request: Request) -> Response:
        tasks.append(len(asyncio.all_tasks()))
        return PlainTextResponse("hello")

    app = Starlette(routes=[Route("/", endpoint)])
    bare = await Server(app).run()
    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(StreamGuardMiddleware)
    server = await Server(app).run()
    assert server.sent == bare.sent
    assert server.receives == 0
    assert tasks[0] == tasks[1]


@pytest.mark.parametrize("state", [True, False])
async def test_the_state_carries_the_guard(state: bool) -> None:
    """P50: also where the server brings no `state`; it is what `current_scope()` returns."""
    seen: list[Any] = []

    async def endpoint(request: Request) -> Response:
        seen.extend([request.state.streamguard, current_scope()])
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(StreamGuardMiddleware)
    await Server(app, state=state).run()
    assert isinstance(seen[0], RequestGuard)
    assert seen[0] is seen[1]
    assert current_scope() is None


async def test_a_body_passes_through() -> None:
    """P7: an upload of a megabyte is read by the application in order, whole, by one reader of the server's."""
    parts = [bytes([index % 251]) * 32768 for index in range(32)]
    received: list[bytes] = []

    async def endpoint(request: Request) -> Response:
        received.extend([part async for part in request.stream()])
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    app.add_middleware(StreamGuardMiddleware)
    server = await Server(app, method="POST", body=parts).run()
    assert b"".join(received) == b"".join(parts)
    assert server.most_readers == 1


async def test_a_reader_that_leaves_within_its_body_starts_nothing() -> None:
    """The application is told while it reads the body; no stream is opened, no receipt written."""
    receipts: list[Receipt] = []
    errors: list[Exception] = []
    engine = Engine()

    @guard_stream
    async def generate(request: Request) -> Any:
        return engine.stream()

    async def endpoint(request: Request) -> Any:
        try:
            await request.body()
        except ClientDisconnect as error:
            errors.append(error)
            return PlainTextResponse("")
        return await generate(request)

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    app.add_middleware(StreamGuardMiddleware, on_receipt=receipts.append)
    server = Server(app, method="POST", body=None)
    server.arrive(b"half", more=True)
    async with server:
        await eventually(lambda: server.readers)
        server.leave()
        await server.ended()
    assert len(errors) == 1
    assert not engine.started
    assert receipts == []


async def test_a_disconnect_after_the_response_is_none() -> None:
    """P6: the connection that closes after the last message has delivered everything."""
    receipts: list[Receipt] = []
    engine = Engine(2)
    engine.finish()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await GuardedResponse(engine.stream())(scope, receive, send)
        server.leave()
        while (await receive())["type"] != "http.disconnect":
            pass
        assert current_scope().gone is None  # type: ignore[union-attr]

    server = Server(StreamGuardMiddleware(app, on_receipt=receipts.append))
    await server.run()
    assert causes(receipts) == [Cause.COMPLETED]
    assert len(receipts[0].history) == 1


class Call:
    """A provider call under a request: notes what it is told of its reader."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def disconnected(self, detail: str = "") -> None:
        """Note it."""
        self.told.append(detail)

    def terminate(self, cause: Cause, detail: str = "") -> None:
        """Not called here."""


async def test_a_call_that_goes_on_after_the_response_is_not_told_of_the_connection() -> None:
    """P6 for any response: work that outlives it (a background task's) is not ended by a closed connection."""
    call = Call()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["streamguard"].add(call)
        await PlainTextResponse("done")(scope, receive, send)
        server.leave()
        while (await receive())["type"] != "http.disconnect":
            pass

    server = Server(StreamGuardMiddleware(app))
    await server.run()
    assert call.told == []


async def test_on_receipt_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    """P47: what the callback raises is logged by its type, and the response is what it was."""
    engine = Engine(1)
    engine.finish()

    def failing(receipt: Receipt) -> None:
        raise ValueError("sk-secret")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await GuardedResponse(engine.stream())(scope, receive, send)

    with caplog.at_level(logging.ERROR, "streamguard"):
        server = await Server(StreamGuardMiddleware(app, on_receipt=failing)).run()
    assert server.complete
    assert "on_receipt raised ValueError" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("fails", [False, True])
async def test_on_receipt_may_be_a_coroutine_function(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It runs after the response, is not lost, and its failure is logged."""
    seen: list[Receipt] = []

    async def remember(receipt: Receipt) -> None:
        await asyncio.sleep(0)
        seen.append(receipt)
        if fails:
            raise ValueError("sk-secret")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        engine = Engine(1)
        engine.finish()
        await GuardedResponse(engine.stream())(scope, receive, send)

    guarded = StreamGuardMiddleware(app, on_receipt=remember)
    with caplog.at_level(logging.ERROR, "streamguard"):
        await Server(guarded).run()
        await eventually(lambda: not guarded._late)
    assert causes(seen) == [Cause.COMPLETED]
    assert ("ValueError was raised" in caplog.text) is fails
    assert "secret" not in caplog.text


async def test_receipts_are_on_the_request() -> None:
    """After the response, `request.state.streamguard` has the receipts of its streams, in order."""
    engines = [Engine(1), Engine(2)]
    seen: list[RequestGuard] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        guard = scope["state"]["streamguard"]
        seen.append(guard)
        first = StreamSession(engines[0].stream(), tags={"n": "1"})
        guard.add(first)
        engines[0].finish()
        engines[1].finish()
        _ = [chunk async for chunk in first]
        await GuardedResponse(engines[1].stream(), tags={"n": "2"})(scope, receive, send)

    await Server(StreamGuardMiddleware(app)).run()
    assert [receipt.tags["n"] for receipt in seen[0].receipts] == ["1", "2"]
    assert len(seen[0].sessions) == 2


async def test_the_middlewares_ledger_is_the_default() -> None:
    """A stream without a ledger of its own is recorded in the middleware's, OPEN and CLOSE."""
    ledger = MemoryLedger()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        engine = Engine(1)
        engine.finish()
        await GuardedResponse(engine.stream())(scope, receive, send)

    await Server(StreamGuardMiddleware(app, ledger=ledger)).run()
    assert [record.stream_id for record in ledger.opened] == [
        one.stream_id for one in ledger.receipts
    ]
    assert causes(ledger.receipts) == [Cause.COMPLETED]


async def test_a_failing_ledger_is_logged_and_not_the_responses_business(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The receipt that could not be written is kept, reported, and logged without its content."""
    from streamguard_core import LedgerError

    class Full(MemoryLedger):
        def append_close(self, receipt: Receipt) -> Any:
            future = super().append_close(receipt)
            future = type(future)()
            future.set_exception(LedgerError("disk full"))
            return future

    receipts, let_go = list[Receipt](), asyncio.Event()

    async def slow_to_go() -> Any:
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            await let_go.wait()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        response = GuardedResponse(slow_to_go(), ledger=Full(), own_task=True)
        await response(scope, receive, send)

    guarded = StreamGuardMiddleware(app, on_receipt=receipts.append)
    with caplog.at_level(logging.ERROR, "streamguard"):
        async with Server(guarded) as server:
            await server.events_sent(1)
            server.leave()
            (session,) = server.scope["state"]["streamguard"].sessions
            await eventually(lambda: session.cause)
            for _ in range(10):
                await asyncio.sleep(0)
            let_go.set()
            await server.ended()
    assert causes(receipts) == [Cause.CLIENT_DISCONNECT]
    assert f"stream {receipts[0].stream_id}: closing it raised LedgerError" in caplog.text


async def test_a_member_that_joins_from_a_thread_is_watched_for() -> None:
    """A provider call in a worker thread joins the scope there; its reader's leaving reaches it."""
    call = Call()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        joining = threading.Thread(target=scope["state"]["streamguard"].add, args=(call,))
        joining.start()
        await asyncio.to_thread(joining.join)
        await eventually(lambda: call.told)

    async with Server(StreamGuardMiddleware(app)) as server:
        server.leave()
        await server.ended()
    assert call.told == ["the connection was closed"]


async def test_twice_is_once() -> None:
    """The same middleware outside and inside (a mounted application): the outer one has the request."""
    engine, outer, inner = Engine(1), list[Receipt](), list[Receipt]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await GuardedResponse(engine.stream())(scope, receive, send)

    mounted = StreamGuardMiddleware(app, on_receipt=inner.append)
    async with Server(StreamGuardMiddleware(mounted, on_receipt=outer.append)) as server:
        await server.events_sent(1)
        server.leave()
        await server.ended()
    assert (causes(outer), inner) == ([Cause.CLIENT_DISCONNECT], [])
    assert server.most_readers == 1


def test_bounds_are_checked() -> None:
    """What cannot work is said when the application is put together."""

    async def app(*_: Any) -> None:
        """Never called."""

    with pytest.raises(UsageError, match="buffer_limit=0"):
        StreamGuardMiddleware(app, buffer_limit=0)
    with pytest.raises(UsageError, match="shutdown_grace=0"):
        StreamGuardMiddleware(app, shutdown_grace=0)
    with pytest.raises(UsageError, match=r"ledger of type str was given; .*SQLiteLedger\(path\)"):
        StreamGuardMiddleware(app, ledger="receipts")  # type: ignore[arg-type]
