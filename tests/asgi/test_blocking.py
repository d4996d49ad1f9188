"""Blocking generators: they run in a thread that nobody can interrupt, and are left and closed all the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from streamguard_asgi import StreamGuardMiddleware, guard_stream
from streamguard_core import Cause, CloseState, Receipt

from .driver import BOUND, Server, eventually


class BlockingEngine:
    """A provider that is read by blocking, and knows in which thread it was closed."""

    def __init__(self, ready: int) -> None:
        self.generated = 0
        self.closed_in = 0
        self.ran_in = 0
        self.permits = threading.Semaphore(ready)

    def stream(self) -> Iterator[str]:
        """The tokens."""
        self.ran_in = threading.get_ident()
        try:
            while self.permits.acquire(timeout=BOUND):
                self.generated += 1
                yield f"token{self.generated} "
        finally:
            self.closed_in = threading.get_ident()


def generator(engine: BlockingEngine) -> Callable[..., Any]:
    """The endpoint is the generator."""

    def endpoint() -> Iterator[str]:
        yield from engine.stream()

    return endpoint


def returned(engine: BlockingEngine) -> Callable[..., Any]:
    """A function returns it."""

    def endpoint() -> Any:
        return engine.stream()

    return endpoint


def in_a_response(engine: BlockingEngine) -> Callable[..., Any]:
    """Starlette's response wraps it, which neither closes it nor can leave it."""

    def endpoint() -> Any:
        return StreamingResponse(engine.stream(), media_type="text/event-stream")

    return endpoint


@pytest.mark.parametrize("kind", [generator, returned, in_a_response])
async def test_the_reader_leaves_while_the_generator_blocks(kind: Any) -> None:
    """The cause is fixed at once; the thread ends at its next chunk, which is late, and closes itself."""
    engine, receipts = BlockingEngine(2), list[Receipt]()
    app = FastAPI()
    app.get("/")(guard_stream(kind(engine)))
    guarded = StreamGuardMiddleware(app, on_receipt=receipts.append)
    async with Server(guarded) as server:
        await server.until(lambda: server.text.count("token") == 2)
        server.leave()
        (session,) = server.scope["state"]["streamguard"].sessions
        await eventually(lambda: session.cause)
        engine.permits.release(100)
        await server.ended()
    (receipt,) = receipts
    assert receipt.cause is Cause.CLIENT_DISCONNECT
    assert receipt.close is CloseState.CONFIRMED
    assert receipt.committed == 2
    assert engine.generated <= 3
    assert engine.closed_in == engine.ran_in != threading.get_ident()


@pytest.mark.parametrize("kind", [generator, returned, in_a_response])
async def test_a_slow_reader_holds_a_blocking_generator_back(kind: Any) -> None:
    """A thread that could make a thousand chunks at once makes as many as the buffers hold."""
    engine, receipts = BlockingEngine(1000), list[Receipt]()
    app = FastAPI()
    app.get("/")(guard_stream(kind(engine)))
    async with Server(StreamGuardMiddleware(app, on_receipt=receipts.append)) as server:
        await server.until(lambda: len(server.sent) == 1)
        server.stall()
        await eventually(lambda: server.senders)
        (session,) = server.scope["state"]["streamguard"].sessions
        await eventually(lambda: session.statistics().inflight == 16)
        server.leave()
        await server.ended()
    assert receipts[0].cause is Cause.CLIENT_DISCONNECT
    assert engine.generated < 100
    assert engine.closed_in == engine.ran_in
