"""Provider calls of a request outside of any session: their receipts are the request's, once each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from streamguard_asgi import StreamGuardMiddleware, guard_stream
from streamguard_core import Cause, MemoryLedger, Receipt, RecordedStream, current_scope

from .driver import Server, causes, eventually


def begun(chunks: int = 0) -> RecordedStream:
    """What a guarded transport does before it sends a request in the current scope."""
    scope = current_scope()
    assert scope is not None
    stream = scope.new_stream(model="m", provider="p", max_tokens=9)
    scope.add(stream)
    stream.start()
    stream.passed(chunks)
    return stream


def fails_and_may_be_tried_again() -> None:
    """What a guarded transport does when a call failed whose SDK may try again."""
    stream, scope = begun(), current_scope()
    assert scope is not None
    scope.awaited.append(lambda: stream.ended(Cause.PRODUCER_ERROR, "refused"))


class Guarded:
    """An application with one endpoint under the middleware; keeps what the middleware tells."""

    def __init__(self, endpoint: Any) -> None:
        self.receipts: list[Receipt] = []
        self.ledger = MemoryLedger()
        self.app: Any = StreamGuardMiddleware(
            Starlette(routes=[Route("/", endpoint)]),
            ledger=self.ledger,
            on_receipt=self.receipts.append,
        )

    def only(self) -> Receipt:
        """The one receipt, told once, in the ledger once."""
        (receipt,) = self.receipts
        assert self.ledger.receipts == [receipt]
        assert [record.stream_id for record in self.ledger.opened] == [receipt.stream_id]
        return receipt


async def test_told_once_and_found_at_the_request() -> None:
    """The middleware's ledger has it, `on_receipt` gets it, and the request lists it."""
    listed: list[tuple[Receipt, ...]] = []

    async def endpoint(request: Request) -> Response:
        begun(3).ended()
        listed.append(request.state.streamguard.receipts)
        return PlainTextResponse("hello")

    guarded = Guarded(endpoint)
    await Server(guarded.app).run()
    receipt = guarded.only()
    assert listed == [(receipt,)]
    assert (receipt.cause, receipt.consumed) == (Cause.COMPLETED, 3)


async def test_told_from_the_threads_in_which_they_end() -> None:
    """A sync endpoint calls its provider in a worker thread; `on_receipt` is called in the loop's."""

    def endpoint(request: Request) -> Response:
        begun(1).ended()
        return PlainTextResponse("hello")

    guarded = Guarded(endpoint)
    await Server(guarded.app).run()
    await eventually(lambda: guarded.receipts)
    assert guarded.only().cause is Cause.COMPLETED


async def test_the_reader_leaves() -> None:
    """A response that StreamGuard does not know streams what a background task reads: the call is cut off."""
    closed = asyncio.Event()

    async def endpoint(request: Request) -> Response:
        stream = begun(2)
        stream.on_close(closed.set)

        async def body() -> AsyncIterator[str]:
            yield "never "
            await closed.wait()

        return StreamingResponse(body())

    guarded = Guarded(endpoint)
    async with Server(guarded.app) as server:
        await server.until(lambda: "never" in server.text)
        server.leave()
        await eventually(closed.is_set)
        await server.ended()
    receipt = guarded.only()
    assert receipt.cause is Cause.CLIENT_DISCONNECT
    assert (receipt.consumed, receipt.late) == (2, 0)


async def test_a_failed_call_that_the_endpoint_gives_up() -> None:
    """A stream that waits for a retry which the endpoint's error rules out failed by its provider (G14)."""

    async def endpoint(request: Request) -> Response:
        fails_and_may_be_tried_again()
        raise OSError("what an SDK raises after its last try")

    guarded = Guarded(endpoint)
    with pytest.raises(OSError, match="last try"):
        await Server(guarded.app).run()
    assert guarded.only().cause is Cause.PRODUCER_ERROR


async def test_a_call_that_outlives_its_request() -> None:
    """What an application reads on for itself after the response is not cut off, and told when it ends."""
    streams: list[RecordedStream] = []

    async def endpoint(request: Request) -> Response:
        streams.append(begun())
        return PlainTextResponse("hello")

    guarded = Guarded(endpoint)
    await Server(guarded.app).run()
    assert guarded.receipts == []
    streams[0].ended()
    assert guarded.only().cause is Cause.COMPLETED


@pytest.mark.parametrize("error", [RuntimeError("broken"), asyncio.CancelledError()])
async def test_the_application_is_interrupted(error: BaseException) -> None:
    """It fails, or the server shuts down: nobody wants the call any more, and the reader is not blamed (G14)."""

    async def endpoint(request: Request) -> Response:
        begun(1)
        raise error

    guarded = Guarded(endpoint)
    with pytest.raises(type(error)):
        await guarded.app(Server(guarded.app).scope, None, _nowhere)
    receipt = guarded.only()
    assert receipt.cause is not Cause.CLIENT_DISCONNECT
    assert receipt.cause is not Cause.COMPLETED


async def _nowhere(message: Any) -> None:
    """A `send` that goes nowhere."""


async def test_what_waits_for_a_retry_is_settled_with_the_request() -> None:
    """No retry can come after the end of its request."""

    async def endpoint(request: Request) -> Response:
        fails_and_may_be_tried_again()
        return PlainTextResponse("hello")

    guarded = Guarded(endpoint)
    await Server(guarded.app).run()
    assert guarded.only().cause is Cause.PRODUCER_ERROR


async def test_in_the_order_in_which_they_were_opened() -> None:
    """Streams of sessions and others are listed together."""
    kept: list[Request] = []

    @guard_stream(model="session")
    async def endpoint(request: Request) -> Any:
        kept.append(request)
        early = begun()
        early.ended()

        async def words() -> AsyncIterator[str]:
            yield "again"

        return words()

    guarded = Guarded(endpoint)
    await Server(guarded.app).run()
    listed = kept[0].state.streamguard.receipts
    assert [receipt.model for receipt in listed] == ["session", "m"]
    assert causes(guarded.receipts) == [Cause.COMPLETED] * 2
