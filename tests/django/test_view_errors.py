"""A view that raises beside a stream of its request: the stream ends then, for the application's error (G14)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from streamguard_core import (
    Attempt,
    AttemptOutcome,
    Cause,
    MemoryLedger,
    ProducerError,
    StreamSession,
    SyncStreamSession,
)
from streamguard_django import GuardedStreamingHttpResponse, get_guarded_asgi_application

from ..asgi.driver import BOUND, Engine, Server, eventually  # noqa: TID252 - one server for both adapters
from .project import STACKS, WSGIServer, project

pytestmark = pytest.mark.filterwarnings("ignore:Unclosed file <tempfile:ResourceWarning")
"""Django forgets its copy of the request's body when a response fails."""


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("error", [KeyError("sk-secret"), ProducerError("sk-secret")])
async def test_an_async_view_that_raises_ends_its_stream(
    stack: str, wrapped: bool, error: Exception
) -> None:
    """With the middleware alone and below the ASGI wrapper: closed at once, and for the true cause."""
    engine, ledger = Engine(3), MemoryLedger()

    async def view(request: Any) -> Any:
        session = StreamSession(engine.stream(), ledger=ledger)
        request.streamguard.add(session)
        session.start()
        await session.read_ready(1)
        raise error

    with project(view, STACKS[stack]) as made:
        app = made.asgi()
        server = Server(get_guarded_asgi_application(app) if wrapped else app)
        await server.run()
        await eventually(lambda: ledger.receipts)
    (receipt,) = ledger.receipts
    provider = isinstance(error, ProducerError)
    assert receipt.cause is (Cause.PRODUCER_ERROR if provider else Cause.CONSUMER_ERROR)
    assert receipt.detail == f"the view raised {type(error).__name__}"
    assert server.status == 500
    assert engine.closed


def _words(closed: list[int]) -> Iterator[str]:
    try:
        yield "a"
        yield "b"
    finally:
        closed.append(1)


def test_a_view_that_raises_ends_its_stream_under_wsgi() -> None:
    """The same in a thread, where nobody would close the iterator but the collector."""
    ledger, closed = MemoryLedger(), list[int]()

    def view(request: Any) -> Any:
        session = SyncStreamSession(_words(closed), ledger=ledger)
        request.streamguard.add(session)
        assert session.read_ready(1) == ["a"]
        raise KeyError

    with project(view) as made:
        server = WSGIServer(made.wsgi())
        server.read()
    (receipt,) = ledger.receipts
    assert (receipt.cause, closed) == (Cause.CONSUMER_ERROR, [1])


async def test_a_call_that_waits_for_its_retry_failed_by_its_provider() -> None:
    """What an SDK raised after its last try is the provider's failure, although the view raised it on."""
    ledger = MemoryLedger()

    async def view(request: Any) -> Any:
        scope = request.streamguard
        stream = scope.new_stream(model="m")
        scope.add(stream)
        stream.start()
        stream.attempt(Attempt(outcome=AttemptOutcome.FAILED, status=503))
        scope.awaited.append(lambda: stream.ended(Cause.PRODUCER_ERROR, "refused"))
        raise OSError

    with project(view, LEDGER=ledger) as made:
        await Server(made.asgi()).run()
    (receipt,) = ledger.receipts
    assert (receipt.cause, receipt.detail) == (Cause.PRODUCER_ERROR, "refused")


async def test_a_reader_that_had_left_is_the_cause_still() -> None:
    """What the cutoff breaks in a view is not the view's failure."""
    ledger = MemoryLedger()

    async def view(request: Any) -> Any:
        session = StreamSession(Engine().stream(), ledger=ledger)
        request.streamguard.add(session)
        session.start()
        request.streamguard.disconnected("the connection was closed")
        raise KeyError

    with project(view) as made:
        await Server(made.asgi()).run()
        await eventually(lambda: ledger.receipts)
    assert [receipt.cause for receipt in ledger.receipts] == [Cause.CLIENT_DISCONNECT]


@pytest.mark.parametrize("started", [True, False])
async def test_what_was_made_ready_and_not_returned_is_closed(started: bool) -> None:
    """A response that its view forgets in an error opens no call, and holds nothing open."""
    engine, ledger = Engine(1), MemoryLedger()
    generator = engine.stream()
    if started:
        await anext(generator)

    async def view(request: Any) -> Any:
        GuardedStreamingHttpResponse(generator)
        raise KeyError

    with project(view, LEDGER=ledger) as made:
        await Server(made.asgi()).run()
        await eventually(lambda: ledger.receipts)
    assert [receipt.cause for receipt in ledger.receipts] == [Cause.CONSUMER_ERROR]
    assert engine.closed is started
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(anext(generator), BOUND)
