"""Requests without a stream, under nothing but the middleware: which of them end with their reader."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from streamguard_asgi import StreamGuardMiddleware
from streamguard_core import UsageError
from streamguard_core.testing import run

from .driver import Server, eventually
from .endpoints import existing


def answering(began: asyncio.Event, ended: list[str]) -> Any:
    """An endpoint that works for some seconds and then answers."""

    async def endpoint(request: Request) -> Response:
        await request.body()
        try:
            began.set()
            await asyncio.sleep(3)
            ended.append("done")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return Response("hello")

    return endpoint


@pytest.mark.parametrize(
    ("option", "ending"), [("governed", "done"), ("none", "done"), ("all", "cancelled")]
)
def test_a_plain_request_runs_to_its_end(option: str, ending: str) -> None:
    """What never touched a model is not cancelled when its reader leaves, unless that is asked for."""

    async def main() -> None:
        began, ended = asyncio.Event(), list[str]()
        app = existing(answering(began, ended), cancel_requests=option)
        async with Server(app, method="POST") as server:
            await began.wait()
            server.leave()
            await server.ended()
        assert ended == [ending]

    run(main())


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

    async with Server(existing(endpoint, layers), method="POST") as server:
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
