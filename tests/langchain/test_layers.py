"""A chain in a request: middleware, endpoint, chain and transport find each other, and leave one receipt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai as sdk
import pytest
from fastapi import FastAPI
from langchain_core.output_parsers import StrOutputParser
from starlette.responses import JSONResponse, StreamingResponse

from streamguard_asgi import StreamGuardMiddleware, guard_stream
from streamguard_core import AttemptOutcome, Cause
from streamguard_langchain import StreamGuardCallbackHandler, guard
from streamguard_providers import GuardedAsyncTransport, GuardedTransport
from streamguard_testing import LoopbackEngine, RawClient

from ..asgi.test_servers import serve  # noqa: TID252 - one way to serve for all
from .receipts import Receipts, eventually
from .rig import LEAD, QUESTION, openai, slow_engine

ENDPOINTS = ["decorated", "decorated-handler", "response", "plain", "thread", "decorated-thread"]


def guarded_clients() -> dict[str, Any]:
    """Clients of the openai package on guarded transports, for whichever httpx it is built on."""
    new = any(each.__module__ == "httpx2" for each in sdk.DefaultAsyncHttpxClient.__mro__)
    asynchronous: Any = GuardedAsyncTransport.httpx2() if new else GuardedAsyncTransport()
    blocking: Any = GuardedTransport.httpx2() if new else GuardedTransport()
    return {
        "http_async_client": sdk.DefaultAsyncHttpxClient(transport=asynchronous),
        "http_client": sdk.DefaultHttpxClient(transport=blocking),
    }


def application(engine: LoopbackEngine, receipts: Receipts, **options: Any) -> Any:
    """A FastAPI application whose endpoints stream the same chain in different ways."""
    app = FastAPI()
    bare = openai(engine, **options) | StrOutputParser()
    chain = guard(bare)
    handler: Any = {"callbacks": [StreamGuardCallbackHandler()]}

    @app.post("/decorated")
    @guard_stream
    async def decorated() -> AsyncIterator[str]:
        async for text in chain.astream(QUESTION):
            yield text

    @app.post("/decorated-handler")
    @guard_stream
    async def decorated_handler() -> AsyncIterator[str]:
        async for text in bare.astream(QUESTION, handler):
            yield text

    @app.post("/decorated-thread")
    @guard_stream
    def decorated_thread() -> Iterator[str]:
        yield from chain.stream(QUESTION)

    @app.post("/response")
    async def response() -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            async for text in chain.astream(QUESTION):
                yield f"data: {text}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.post("/plain")
    async def plain() -> StreamingResponse:
        return StreamingResponse(chain.astream(QUESTION), media_type="text/plain")

    @app.post("/thread")
    def thread() -> StreamingResponse:
        return StreamingResponse(chain.stream(QUESTION), media_type="text/plain")

    @app.post("/whole")
    async def whole() -> JSONResponse:
        return JSONResponse({"answer": await chain.ainvoke(QUESTION)})

    return StreamGuardMiddleware(app, on_receipt=receipts.append)


@pytest.mark.parametrize("transport", [False, True], ids=["plain", "guarded"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_reader_of_a_request_leaves(
    endpoint: str, transport: bool, receipts: Receipts, caplog: pytest.LogCaptureFixture
) -> None:
    """The reader closes its connection: at most one further chunk is generated, and there is one receipt."""
    async with slow_engine(interval=0.5) as engine:
        app = application(engine, receipts, **(guarded_clients() if transport else {}))
        async with serve(app, "h11") as (_, url):
            client = await RawClient.open(f"{url}/{endpoint}", "POST")
            async with client:
                await client.read_some()
                await engine.wait_until(
                    lambda: any(each.generated >= LEAD for each in engine.requests)
                )
                generated = engine.requests[0].generated
                client.leave()
            await engine.wait_idle()
            assert engine.requests[0].generated <= generated + 1
            await receipts.come()
        receipt = receipts.one
        assert receipt.cause is Cause.CLIENT_DISCONNECT
        (attempt,) = receipt.attempts
        assert attempt.outcome is AttemptOutcome.CUT
        assert attempt.run_id is not None
        assert (attempt.bytes_received > 0) is transport
        assert "Exception in ASGI application" not in caplog.text


@pytest.mark.parametrize("transport", [False, True], ids=["plain", "guarded"])
@pytest.mark.parametrize("endpoint", [*ENDPOINTS, "whole"])
async def test_request_that_is_read(endpoint: str, transport: bool, receipts: Receipts) -> None:
    """A request that is read to its end has one receipt, with the one call on it."""
    async with slow_engine(interval=0.0, answer_tokens=10) as engine:
        app = application(engine, receipts, **(guarded_clients() if transport else {}))
        async with serve(app, "h11") as (_, url):
            async with await RawClient.open(f"{url}/{endpoint}", "POST") as client:
                await client.read_to_end()
            await receipts.come()
        receipt = receipts.one
        assert receipt.cause is Cause.COMPLETED
        (attempt,) = receipt.attempts
        assert attempt.outcome is AttemptOutcome.COMPLETED
        assert receipt.output.value == 10


async def test_run_without_a_stream_around_it(receipts: Receipts) -> None:
    """Outside of any stream, a run and the guarded transport below it share the handler's receipt."""
    async with slow_engine(interval=0.0, answer_tokens=10) as engine:
        model = openai(engine, **guarded_clients())
        handler = StreamGuardCallbackHandler(on_receipt=receipts.append)
        async for _ in model.astream(QUESTION, {"callbacks": [handler]}):
            pass
        (attempt,) = receipts.one.attempts
        assert attempt.bytes_received > 0
        assert (attempt.provider, receipts.one.output.value) == ("127.0.0.1", 10)
        await eventually(lambda: not handler._runs)
