"""Streams that an application sends by itself have a receipt, counted from what passes."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from streamguard_asgi import StreamGuardMiddleware
from streamguard_core import Cause, CloseState, CountSource, Receipt, current_scope
from streamguard_providers.stream_decoder import StreamDecoder

from .driver import Engine, Server, eventually
from .test_recorded import begun

SPECS = pytest.mark.parametrize("spec", ["2.3", "2.4"])
EVENTS = "text/event-stream"
CHAT = (
    'data: {"model":"m","choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n',
    'data: {"model":"m","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n',
    'data: {"model":"m","choices":[{"index":0,"delta":{"content":"b"}}]}\n\n',
    'data: {"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    'data: {"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":7,"total_tokens":10}}\n\n',
    "data: [DONE]\n\n",
)


def guarded(body: Callable[[], Any], receipts: list[Receipt], media: str, **options: Any) -> Any:
    """An application with one streaming endpoint, under the middleware alone."""

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(body(), media_type=media)

    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(StreamGuardMiddleware, on_receipt=receipts.append, **options)
    return app


async def sending(*parts: str) -> AsyncIterator[str]:
    """The parts, one send for each."""
    for part in parts:
        yield part


@pytest.mark.parametrize("media", [EVENTS, "application/x-ndjson", "application/jsonl"])
async def test_sends_are_counted_without_a_decoder(media: str) -> None:
    """A stream by its content type has one receipt, whose output says that chunks were counted."""
    receipts: list[Receipt] = []
    await Server(guarded(lambda: sending("a\n", "b\n"), receipts, media)).run()
    (receipt,) = receipts
    assert (receipt.cause, receipt.consumed) == (Cause.COMPLETED, 2)
    assert receipt.output.source is CountSource.CHUNKS


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_whatever_holds_bytes_is_counted(kind: type) -> None:
    """Applications may send other kinds of bytes; comments, blanks and nothing at all are no chunks."""
    receipts: list[Receipt] = []
    sends = (b"data: a\n\n", b": ping\n\n", b": late\ndata: b\n\n", b" \n", b"")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", EVENTS.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for body in sends:
            await send({"type": "http.response.body", "body": kind(body), "more_body": True})
        await send({"type": "http.response.body"})

    await Server(StreamGuardMiddleware(app, on_receipt=receipts.append)).run()
    assert [(receipt.cause, receipt.consumed) for receipt in receipts] == [(Cause.COMPLETED, 2)]


@pytest.mark.parametrize("media", [EVENTS, "text/plain"])
async def test_a_providers_format_is_recognised(media: str) -> None:
    """Its chunks, model, finish and usage are those of the bytes that pass, and comments are none."""
    receipts: list[Receipt] = []
    app = guarded(lambda: sending(": ping\n\n", *CHAT), receipts, media, decoder=StreamDecoder.auto)
    await Server(app).run()
    (receipt,) = receipts
    assert (receipt.cause, receipt.consumed, receipt.finish) == (Cause.COMPLETED, 2, "stop")
    assert (receipt.model, receipt.usage.output.value) == ("m", 7)


async def test_a_stream_without_its_terminal_marker_is_truncated() -> None:
    """The application ends its response cleanly; the provider's stream was cut (G13)."""
    receipts: list[Receipt] = []
    await Server(
        guarded(lambda: sending(*CHAT[:2]), receipts, EVENTS, decoder=StreamDecoder.auto)
    ).run()
    assert [receipt.cause for receipt in receipts] == [Cause.TRUNCATED]


async def test_what_is_no_stream_has_no_receipt() -> None:
    """A page that is sent in pieces is none, with or without a decoder."""
    for options in ({}, {"decoder": StreamDecoder.auto}):
        receipts: list[Receipt] = []
        await Server(guarded(lambda: sending("a", "b"), receipts, "text/plain", **options)).run()
        assert receipts == []


@SPECS
async def test_the_reader_leaves(spec: str) -> None:
    """The cause is the reader's, and the close is confirmed once the generator has ended (G10)."""
    engine, receipts = Engine(2), list[Receipt]()
    app = guarded(engine.stream, receipts, EVENTS)
    async with Server(app, spec=spec) as server:
        await server.until(lambda: "token2" in server.text)
        server.leave()
        await server.ended()
    (receipt,) = receipts
    assert (receipt.cause, receipt.consumed) == (Cause.CLIENT_DISCONNECT, 2)
    assert str(receipt.close) == "confirmed"
    assert engine.closed


async def test_somebody_ends_it() -> None:
    """An operator's word ends the application as well, and the response has no clean end."""
    engine, receipts, scopes = Engine(1), list[Receipt](), list[Any]()

    async def body() -> AsyncIterator[str]:
        scopes.append(current_scope())
        async for token in engine.stream():
            yield token

    async with Server(guarded(body, receipts, EVENTS)) as server:
        await server.until(lambda: "token1" in server.text)
        scopes[0].terminate(Cause.OPERATOR_CANCEL, "stopped")
        await server.ended()
        assert not server.complete
    assert [receipt.cause for receipt in receipts] == [Cause.OPERATOR_CANCEL]
    assert engine.closed


async def test_the_application_fails() -> None:
    """What makes the stream has failed: that is the producer's, by its type alone (G14)."""
    receipts: list[Receipt] = []

    async def body() -> AsyncIterator[str]:
        yield "a"
        raise RuntimeError("the prompt")

    with pytest.raises(RuntimeError):
        await Server(guarded(body, receipts, EVENTS)).run()
    (receipt,) = receipts
    assert (receipt.cause, receipt.consumed) == (Cause.PRODUCER_ERROR, 1)
    assert "prompt" not in receipt.detail


async def test_a_call_that_is_recorded_already() -> None:
    """Its receipt is the stream's: one, not two (G11)."""
    receipts: list[Receipt] = []

    async def endpoint(request: Request) -> Response:
        stream = begun(1)

        async def body() -> AsyncIterator[str]:
            yield "a"
            stream.ended()

        return StreamingResponse(body(), media_type=EVENTS)

    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(StreamGuardMiddleware, on_receipt=receipts.append)
    await Server(app).run()
    assert [(receipt.cause, receipt.model) for receipt in receipts] == [(Cause.COMPLETED, "m")]


async def test_a_thread_that_nothing_wakes_is_given_up() -> None:
    """The reader has left and a thread still blocks: the receipt does not wait for it, and says so (G10)."""
    receipts: list[Receipt] = []
    release = threading.Event()

    def tokens() -> Iterator[str]:
        yield "data: a\n\n"
        release.wait()

    app = guarded(tokens, receipts, EVENTS, shutdown_grace=0.05)
    try:
        async with Server(app) as server:
            await server.until(lambda: "data: a" in server.text)
            server.leave()
            await eventually(lambda: receipts)
            assert receipts[0].close is CloseState.UNCONFIRMED
            release.set()
            await server.ended()
    finally:
        release.set()
    (receipt,) = receipts
    assert receipt.cause is Cause.CLIENT_DISCONNECT
