"""`guard_stream`: the reader leaves, or time runs out, before there is a response."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import Any

import pytest
from fastapi import HTTPException
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from streamguard_asgi import StreamGuardMiddleware, guard_stream
from streamguard_asgi.endpoints import REQUEST_PARAMETER
from streamguard_core import (
    Cause,
    Deadlines,
)

from .driver import Server, eventually, in_virtual_time
from .endpoints import Rig, pieces


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


@in_virtual_time
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
