"""The reader leaves: every phase, every stack, every way a server has of telling it; one receipt each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from streamguard_asgi import GuardedResponse, StreamGuardMiddleware, guard_stream
from streamguard_core import Cause, Receipt

from .driver import Careful, Engine, Mode, Server, eventually
from .endpoints import passing_on

Build = Callable[[Engine], Any]


def raw(engine: Engine) -> Any:
    """A plain ASGI application."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await GuardedResponse(engine.stream())(scope, receive, send)

    return app


def starlette(engine: Engine) -> Any:
    """A Starlette route with the response class."""

    async def endpoint(request: Request) -> Any:
        return GuardedResponse(engine.stream())

    return Starlette(routes=[Route("/", endpoint, methods=["GET", "POST"])])


def decorated(engine: Engine) -> Any:
    """A Starlette route under the decorator."""

    @guard_stream
    async def endpoint(request: Request) -> Any:
        return engine.stream()

    return Starlette(routes=[Route("/", endpoint, methods=["GET", "POST"])])


def fastapi(engine: Engine) -> Any:
    """A FastAPI endpoint that is a generator."""
    app = FastAPI()

    @app.api_route("/", methods=["GET", "POST"])
    @guard_stream
    async def endpoint() -> Any:
        async for token in engine.stream():
            yield token

    return app


def taken_over(engine: Engine) -> Any:
    """A FastAPI endpoint that returns Starlette's response."""
    app = FastAPI()

    @app.api_route("/", methods=["GET", "POST"])
    @guard_stream
    async def endpoint() -> Any:
        return StreamingResponse(engine.stream(), media_type="text/event-stream")

    return app


STACKS: dict[str, Build] = {
    "raw": raw,
    "starlette": starlette,
    "decorated": decorated,
    "fastapi": fastapi,
    "taken_over": taken_over,
}


def layered(app: Any, layers: int) -> Any:
    """Some of Starlette's `BaseHTTPMiddleware` around an application."""
    for _ in range(layers):
        app = BaseHTTPMiddleware(app, dispatch=passing_on)
    return app


class Rig:
    """One stack under the middleware, and what it left behind."""

    def __init__(self, build: Build, layers: int = 0, *, inside: bool = False) -> None:
        self.engine = Engine()
        self.receipts: list[Receipt] = []
        app = build(self.engine)
        if inside:
            self.app = layered(StreamGuardMiddleware(app, on_receipt=self.receipts.append), layers)
        else:
            self.app = StreamGuardMiddleware(layered(app, layers), on_receipt=self.receipts.append)

    def check(self, cause: Cause = Cause.CLIENT_DISCONNECT) -> Receipt:
        """There is one receipt, with this cause, and the engine was let go."""
        (receipt,) = self.receipts
        assert receipt.cause is cause
        assert self.engine.closed or not self.engine.started
        return receipt


async def let_go(server: Server) -> None:
    """Wait until the application has returned; a layer between may pass on what a server's `send` raises."""
    with contextlib.suppress(OSError):
        await server.ended()


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(
    ("spec", "mode"), [("2.3", "silent"), ("2.4", "silent"), ("2.4", "raising")]
)
class TestMatrix:
    """Every stack, behind layers that buffer, told by `receive` alone or by `send` as well (P1, P2, P54)."""

    async def test_before_the_first_token(
        self, stack: str, layers: int, spec: str, mode: Mode
    ) -> None:
        """The provider thinks, the reader leaves: nothing is generated any more, and nothing sent."""
        rig = Rig(STACKS[stack], layers)
        async with Server(rig.app, spec=spec, mode=mode) as server:
            await server.until(lambda: len(server.sent) == 1)
            server.leave()
            await let_go(server)
        receipt = rig.check()
        assert (receipt.produced, rig.engine.generated) == (0, 0)
        assert server.most_readers == 1
        assert server.bodies == []

    async def test_mid_stream(self, stack: str, layers: int, spec: str, mode: Mode) -> None:
        """Between two tokens: not one more is generated."""
        rig = Rig(STACKS[stack], layers)
        rig.engine.make(5)
        async with Server(rig.app, spec=spec, mode=mode) as server:
            await server.until(lambda: server.text.count("token") == 5)
            server.leave()
            await let_go(server)
            rig.engine.make(5)
        receipt = rig.check()
        assert (receipt.produced, receipt.committed, rig.engine.generated) == (5, 5, 5)
        assert "eos" not in server.text

    async def test_while_a_send_waits(self, stack: str, layers: int, spec: str, mode: Mode) -> None:
        """P10, P11: a slow reader leaves; the engine is let go without the garbage collector."""
        rig = Rig(STACKS[stack], layers)
        rig.engine.make(2)
        async with Server(rig.app, spec=spec, mode=mode) as server:
            await server.until(lambda: server.text.count("token") == 2)
            server.stall()
            rig.engine.make(1000)
            await eventually(lambda: server.senders)
            for _ in range(50):
                await asyncio.sleep(0)
            before = rig.engine.generated
            server.leave()
            await let_go(server)
        rig.check()
        assert rig.engine.generated <= before + 1
        assert before < 200

    async def test_after_the_end(self, stack: str, layers: int, spec: str, mode: Mode) -> None:
        """P6: the connection closes after the last message; the stream was whole."""
        rig = Rig(STACKS[stack], layers)
        rig.engine.make(3)
        rig.engine.finish()
        async with Server(rig.app, spec=spec, mode=mode) as server:
            await server.until(lambda: server.complete)
            server.leave()
            await let_go(server)
        receipt = rig.check(Cause.COMPLETED)
        assert receipt.consumed == 3
        assert len(receipt.history) == 1


async def stalled(rig: Rig, server: Server) -> None:
    """Two tokens are read, and a `send` waits with the next ones."""
    rig.engine.make(2)
    await server.until(lambda: server.text.count("token") == 2)
    server.stall()
    rig.engine.make(2)
    await eventually(lambda: server.senders)


@pytest.mark.parametrize("stack", STACKS)
async def test_a_send_that_never_returns(stack: str) -> None:
    """A server that neither raises nor returns from `send` after the disconnect holds nothing up."""
    rig = Rig(STACKS[stack])
    async with Server(rig.app, mode="blocking") as server:
        await stalled(rig, server)
        server.leave(release=False)
        await server.ended()
    rig.check()


@pytest.mark.parametrize("stack", STACKS)
async def test_a_server_that_cancels_while_a_send_waits(stack: str) -> None:
    """A host that gives up on a stalled reader ends the stream once, and its cancellation propagates."""
    rig = Rig(STACKS[stack])
    async with Server(rig.app, mode="blocking") as server:
        await stalled(rig, server)
        assert server.task is not None
        server.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await server.ended()
    rig.check(Cause.OPERATOR_CANCEL)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("layers", [0, 1])
async def test_a_server_that_cancels_while_the_provider_thinks(stack: str, layers: int) -> None:
    """The same while the stream waits inside its producer, also behind a layer with a cancel scope."""
    rig = Rig(STACKS[stack], layers)
    async with Server(rig.app) as server:
        await server.until(lambda: len(server.sent) == 1)
        assert server.task is not None
        server.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await server.ended()
    rig.check(Cause.OPERATOR_CANCEL)


@pytest.mark.parametrize("stack", STACKS)
async def test_a_body_that_nobody_has_read(stack: str) -> None:
    """The reader leaves behind a body that the application does not read at all."""
    rig = Rig(STACKS[stack])
    async with Server(rig.app, method="POST", body=[b"x" * 1000] * 3) as server:
        await server.until(lambda: len(server.sent) == 1)
        server.leave()
        await server.ended()
    rig.check()


@pytest.mark.parametrize("stack", ["raw", "starlette", "decorated"])
async def test_an_upload_that_nobody_reads_does_not_hide_the_reader(stack: str) -> None:
    """P8: 300 kB unread, and the disconnect mid-stream is still seen."""
    rig = Rig(STACKS[stack])
    rig.engine.make(1)
    async with Server(rig.app, method="POST", body=[b"x" * 10_000] * 30) as server:
        await server.until(lambda: server.text.count("token") == 1)
        server.leave()
        await server.ended()
    rig.check()


@pytest.mark.parametrize("stack", ["raw", "starlette", "decorated"])
async def test_an_upload_that_nobody_reads_without_the_middleware(stack: str) -> None:
    """P8: the same for the response alone, which only begins to watch when it streams."""
    engine = Engine(1)
    async with Server(STACKS[stack](engine), method="POST", body=[b"x" * 10_000] * 30) as server:
        await server.until(lambda: server.text.count("token") == 1)
        server.leave()
        await server.ended()
    assert engine.closed


@pytest.mark.parametrize("stack", STACKS)
async def test_a_reader_that_left_before_anything_was_called(stack: str) -> None:
    """Endings 1: no call to the provider, and a receipt with a definite cost of nothing."""
    rig = Rig(STACKS[stack])
    server = Server(rig.app)
    server.leave()
    await server.run()
    receipt = rig.check()
    assert not rig.engine.started
    assert (receipt.produced, receipt.output.known) == (0, False)
    assert server.sent == []


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("layers", [1, 3])
async def test_the_middleware_below_others(stack: str, layers: int) -> None:
    """P54: put innermost, behind layers that have their own `receive`, it sees the same."""
    rig = Rig(STACKS[stack], layers, inside=True)
    rig.engine.make(3)
    async with Server(rig.app) as server:
        await server.until(lambda: server.text.count("token") == 3)
        server.leave()
        await server.ended()
    assert rig.check().committed == 3


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("stalled", [False, True])
async def test_without_the_middleware(stack: str, layers: int, stalled: bool) -> None:
    """The response alone watches while it streams."""
    engine = Engine(2)
    app = layered(STACKS[stack](engine), layers)
    async with Server(app) as server:
        await server.until(lambda: server.text.count("token") == 2)
        if stalled:
            server.stall()
            engine.make(5)
            await eventually(lambda: server.senders)
        server.leave()
        await server.ended()
    assert engine.closed
    assert engine.generated <= 7


async def test_a_producer_that_cleans_up_slowly_finishes_under_starlette() -> None:
    """P12, P13: the cleanup awaits, layers cancel again and again, and it ends before the receipt."""
    careful = Careful()

    async def endpoint(request: Request) -> Any:
        return GuardedResponse(careful.stream())

    app = layered(Starlette(routes=[Route("/", endpoint)]), 2)
    guarded = StreamGuardMiddleware(
        app, on_receipt=lambda receipt: careful.order.append(str(receipt.close))
    )
    async with Server(guarded) as server:
        await server.events_sent(1)
        assert server.task is not None
        for _ in range(5):
            server.task.cancel()
            await asyncio.sleep(0)
        careful.let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await server.ended()
    assert careful.order == ["cleaned", "confirmed"]


async def test_a_host_with_a_cancel_scope_is_not_fought_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AnyIO cancels in every turn of the loop; waiting for a cleanup below it is shielded, not repeated."""
    waits: list[int] = []
    wait = asyncio.wait

    async def counted(*arguments: Any, **keywords: Any) -> Any:
        waits.append(1)
        return await wait(*arguments, **keywords)

    monkeypatch.setattr(asyncio, "wait", counted)
    careful, scopes = Careful(), list[anyio.CancelScope]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with anyio.CancelScope() as cancel_scope:
            scopes.append(cancel_scope)
            await GuardedResponse(careful.stream())(scope, receive, send)

    async with Server(StreamGuardMiddleware(app)) as server:
        await server.events_sent(1)
        scopes[0].cancel()
        for _ in range(50):
            await asyncio.sleep(0)
        assert careful.order == []
        careful.let_go.set()
        await server.ended()
    assert careful.order == ["cleaned"]
    assert len(waits) < 5
