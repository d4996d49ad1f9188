"""The middleware when the process is told to go: who is told what, in which order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from streamguard_asgi import GuardedResponse, StreamGuardMiddleware
from streamguard_core import Cause, Receipt, Shutdown, drain

from ..core.signals import SlowLedger  # noqa: TID252 - what is durable when the test says so, for all tests of shutdown
from .driver import Engine, Lifespan, Server, eventually


@pytest.fixture(autouse=True)
def called() -> Iterator[list[int]]:
    """A server's handler of SIGTERM: the signals that it got."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


class Rig:
    """One guarded application that streams what its engine makes."""

    def __init__(self, shutdown: Shutdown | bool, **options: Any) -> None:
        self.engine = Engine(1)
        self.receipts: list[Receipt] = []
        self.shutdown = shutdown

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await GuardedResponse(self.engine.stream(), **options)(scope, receive, send)

        self.app = StreamGuardMiddleware(app, on_receipt=self.receipts.append, shutdown=shutdown)

    @property
    def cause(self) -> Cause:
        """Of the one receipt."""
        (receipt,) = self.receipts
        return receipt.cause


async def test_the_first_request_installs_it(called: list[int]) -> None:
    """P19: without a lifespan; the reader is told, with a hint when to come back; the server's handler runs once."""
    rig = Rig(Shutdown(grace=0))
    async with Server(rig.app) as server:
        await server.until(lambda: "token" in server.text)
        signal.raise_signal(signal.SIGTERM)
        await server.ended()
    assert rig.cause is Cause.SHUTDOWN
    assert rig.engine.closed
    assert server.complete
    assert "event: eos\nretry: " in server.text
    assert called == [signal.SIGTERM]


async def test_it_can_be_left_out(called: list[int]) -> None:
    """`shutdown=False` touches no handler, and no stream at the signal."""
    before = signal.getsignal(signal.SIGTERM)
    rig = Rig(shutdown=False)
    async with Server(rig.app) as server:
        await server.until(lambda: "token" in server.text)
        assert signal.getsignal(signal.SIGTERM) is before
        signal.raise_signal(signal.SIGTERM)
        server.leave()
        await server.ended()
    assert rig.cause is Cause.CLIENT_DISCONNECT


async def test_a_disconnect_in_the_same_moment_is_the_servers() -> None:
    """P21: a server that closes its connections at the signal has not lost its readers."""
    rig = Rig(Shutdown(grace=600))
    async with Server(rig.app) as server:
        await server.until(lambda: "token" in server.text)
        signal.raise_signal(signal.SIGTERM)
        server.leave()
        await server.ended()
    assert rig.cause is Cause.SHUTDOWN


async def test_a_server_that_cancels_after_the_signal_shuts_down() -> None:
    """G14: daphne cancels without a word; the signal says why, and the reader still hears of it."""
    rig = Rig(Shutdown(grace=600))
    async with Server(rig.app) as server:
        await server.until(lambda: "token" in server.text)
        signal.raise_signal(signal.SIGTERM)
        assert server.task is not None
        server.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await server.ended()
    assert rig.cause is Cause.SHUTDOWN
    assert "event: eos" in server.text


async def test_a_reader_that_takes_nothing_is_given_up() -> None:
    """A `send` that does not return holds the response a second at most."""
    rig = Rig(Shutdown(grace=0))
    async with Server(rig.app, mode="blocking") as server:
        await server.until(lambda: "token" in server.text)
        server.stall()
        rig.engine.make(1)
        await eventually(lambda: server.senders)
        signal.raise_signal(signal.SIGTERM)
        await server.ended()
    assert rig.cause is Cause.SHUTDOWN


async def test_the_request_lasts_until_its_receipt_is_durable() -> None:
    """A server goes when its requests are over: not before what they cost is kept."""
    ledger = SlowLedger()
    rig = Rig(Shutdown(grace=0), ledger=ledger)
    async with Server(rig.app) as server:
        await server.until(lambda: "token" in server.text)
        signal.raise_signal(signal.SIGTERM)
        await eventually(lambda: ledger.writing)
        await eventually(lambda: server.complete)
        assert server.task is not None
        assert not server.task.done()
        ledger.writing[0].set_result(None)
        await server.ended()


async def test_the_lifespan_installs_waits_and_takes_back() -> None:
    """What outlived its request is ended before the application hears of the shutdown, and then the handler is gone."""
    heard, receipts = list[int](), list[Receipt]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            heard.append(len(receipts))
            await send({"type": "lifespan.shutdown.complete"})
            return
        await GuardedResponse(Engine(1).stream(), on_disconnect=drain(600))(scope, receive, send)

    shutdown = Shutdown()
    guarded = StreamGuardMiddleware(
        app, on_receipt=receipts.append, shutdown=shutdown, shutdown_grace=0.02
    )
    before = signal.getsignal(signal.SIGTERM)
    for run in (1, 2):  # one process may serve twice
        lifespan = Lifespan(guarded)
        await lifespan.say("startup")
        assert signal.getsignal(signal.SIGTERM) is not before
        async with Server(guarded) as server:
            await server.events_sent(1)
            server.leave()
            await server.ended()
        assert (shutdown.live, len(receipts)) == (1, run - 1)
        await lifespan.say("shutdown")
        await lifespan.task
        assert heard == list(range(1, run + 1))
        assert signal.getsignal(signal.SIGTERM) is before
        assert receipts[-1].cause is Cause.CLIENT_DISCONNECT


async def test_an_application_that_stops_its_response_at_the_signal() -> None:
    """G14: sse-starlette hears of the signal, too, and leaves its responses unfinished: no provider has failed."""
    receipts: list[Receipt] = []
    told = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: token\n\n", "more_body": True})
        await told.wait()

    guarded = StreamGuardMiddleware(app, on_receipt=receipts.append, shutdown=Shutdown(grace=600))
    async with Server(guarded) as server:
        await server.until(lambda: "token" in server.text)
        signal.raise_signal(signal.SIGTERM)
        told.set()
        await server.ended()
    assert [receipt.cause for receipt in receipts] == [Cause.SHUTDOWN]
