"""A Django process under an ASGI server that is told to go, with the wrapper that sees what the server does."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from django.http import HttpResponse, StreamingHttpResponse

from streamguard_core import Cause, drain
from streamguard_django import (
    get_guarded_asgi_application,
)
from streamguard_django.middleware import SCOPE_KEY

from ..asgi.driver import Engine, Lifespan, Server, eventually  # noqa: TID252 - one server for both adapters
from ..core.signals import SlowLedger  # noqa: TID252 - see above
from .deploying import told, view_of, words
from .project import BOUND, project

pytestmark = pytest.mark.usefixtures("called")


async def test_the_lifespan_installs_waits_and_takes_back() -> None:
    """Django has none; the wrapper's ends what outlived its request, and takes the handler back."""
    before = signal.getsignal(signal.SIGTERM)
    engine = Engine(1)
    with project(view_of(engine.stream, on_disconnect=drain(600)), CLOSE_TIMEOUT=0.05) as made:
        app = get_guarded_asgi_application(made.asgi())
        signal.signal(signal.SIGTERM, before)
        lifespan = Lifespan(app)
        await lifespan.say("startup")
        assert signal.getsignal(signal.SIGTERM) is not before
        async with Server(app) as server:
            await server.until(lambda: "token1" in server.text)
            server.leave()
            await server.ended()
        assert made.receipts == []
        await lifespan.say("shutdown")
        await lifespan.task
        await eventually(lambda: made.receipts)
        assert signal.getsignal(signal.SIGTERM) is before
    assert made.receipts[0].cause is Cause.CLIENT_DISCONNECT


# Django 5.2 leaves the task behind that listens, and its copy of the request's body.
@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_server_that_cancels_after_the_signal_shuts_down() -> None:
    """G14: daphne cancels without a word; the signal says why, and the reader still hears of it."""
    engine = Engine(1)
    with project(view_of(engine.stream), SHUTDOWN_GRACE=600) as made:
        async with Server(get_guarded_asgi_application(made.asgi())) as server:
            await server.until(lambda: "token1" in server.text)
            told()
            assert server.task is not None
            server.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await server.ended()
            assert server.complete
        await eventually(lambda: made.receipts)
    assert made.receipts[0].cause is Cause.SHUTDOWN
    assert "event: eos\nretry: " in server.text


async def test_what_the_server_cancels_at_a_shutdown_may_say_its_last_word() -> None:
    """The server waits a moment for what it cancels; the application is cancelled when it has answered."""
    said: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        guard = scope[SCOPE_KEY]
        call = guard.new_stream()
        call.start()
        guard.add(call)
        said.append("begun")
        await eventually(lambda: call.cause)
        said.append(str(call.cause))

    with project(view_of(words), SHUTDOWN_GRACE=600):
        async with Server(get_guarded_asgi_application(app)) as server:
            await eventually(lambda: said)
            told()
            assert server.task is not None
            server.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await server.ended()
            assert said == ["begun", "SHUTDOWN"]


async def test_a_call_outside_of_a_stream_is_waited_for_as_well() -> None:
    """As under WSGI; it is the wrapper that waits, on the loop."""
    ledger = SlowLedger()

    async def view(request: Any) -> Any:
        call = request.streamguard.new_stream()
        call.start()
        request.streamguard.add(call)
        told()
        call.ended()
        return HttpResponse("a whole answer")

    with project(view, LEDGER=ledger, SHUTDOWN_GRACE=600, CLOSE_TIMEOUT=BOUND) as made:
        async with Server(get_guarded_asgi_application(made.asgi())) as server:
            await eventually(lambda: server.complete)
            assert server.task is not None
            assert not (await asyncio.wait([server.task], timeout=0.1))[0]
            ledger.writing[0].set_result(None)
            await server.ended()


# As above: a format without a word for its end is broken off, and Django forgets its copy.
@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_response_of_the_applications_own_has_no_clean_end() -> None:
    """G13: bytes have no word for a shutdown, so that the reader must not take them for the whole."""
    engine = Engine(1)

    async def view(request: Any) -> Any:
        return StreamingHttpResponse(engine.stream())

    with project(view, SHUTDOWN_GRACE=600) as made:
        async with Server(get_guarded_asgi_application(made.asgi())) as server:
            await server.until(lambda: b"token1 " in server.bodies)
            told()
            assert server.task is not None
            server.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await server.ended()
        await eventually(lambda: made.receipts)
    assert made.receipts[0].cause is Cause.SHUTDOWN
    assert not server.complete


async def test_a_disconnect_in_the_same_moment_is_the_servers() -> None:
    """P21: a server that closes its connections at the signal has not lost its readers."""
    for wrapped in (True, False):
        engine = Engine(1)
        with project(view_of(engine.stream), SHUTDOWN_GRACE=600) as made:
            app = made.asgi()
            async with Server(get_guarded_asgi_application(app) if wrapped else app) as server:
                await server.until(lambda: "token1" in server.text)
                told()
                server.leave()
                await server.ended()
            await eventually(lambda: made.receipts)
        assert made.receipts[0].cause is Cause.SHUTDOWN


@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile:ResourceWarning")
async def test_a_reader_that_takes_nothing_is_given_up() -> None:
    """A `send` that does not return holds the response a second at most."""
    engine = Engine(1)
    with project(view_of(engine.stream), SHUTDOWN_GRACE=0) as made:
        app = get_guarded_asgi_application(made.asgi())
        async with Server(app, mode="blocking") as server:
            await server.until(lambda: "token1" in server.text)
            server.stall()
            engine.make(1)
            await eventually(lambda: server.senders)
            told()
            await server.ended()
        await eventually(lambda: made.receipts)
    assert made.receipts[0].cause is Cause.SHUTDOWN


@pytest.mark.parametrize("wrapped", [True, False])
async def test_the_request_lasts_until_its_receipt_is_durable(wrapped: bool) -> None:
    """A server goes when its requests are over: not before what they cost is kept."""
    ledger, engine = SlowLedger(), Engine(1)
    view = view_of(engine.stream)
    with project(view, LEDGER=ledger, SHUTDOWN_GRACE=0, CLOSE_TIMEOUT=BOUND) as made:
        app = made.asgi()
        async with Server(get_guarded_asgi_application(app) if wrapped else app) as server:
            await server.until(lambda: "token1" in server.text)
            told()
            await eventually(lambda: ledger.writing)
            await eventually(lambda: server.complete)
            assert server.task is not None
            assert not (await asyncio.wait([server.task], timeout=0.1))[0]
            ledger.writing[0].set_result(None)
            await server.ended()
