"""The middleware: how a request ends, by whom, and what is left of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from streamguard_asgi import (
    GuardedResponse,
    StreamGuardMiddleware,
)
from streamguard_core import (
    ByProvider,
    Cause,
    DisconnectPolicy,
    OnClose,
    Receipt,
    StreamSession,
    Termination,
    by_provider,
    drain,
    grace,
)
from streamguard_core.testing import run

from .driver import Careful, Engine, Server, causes, eventually, in_virtual_time


async def forgotten(engine: Engine, scope: Any) -> None:
    """Read one token in a session under the request, and think of it no more."""
    session = StreamSession(engine.stream())
    scope["state"]["streamguard"].add(session)
    session.start()
    await session.read_ready(1)


async def test_the_end_of_the_request_closes_every_stream() -> None:
    """A session that the application forgot is ended, its producer closed, its receipt there."""
    engine, receipts = Engine(5), list[Receipt]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await forgotten(engine, scope)
        await PlainTextResponse("done")(scope, receive, send)

    await Server(StreamGuardMiddleware(app, on_receipt=receipts.append)).run()
    assert engine.closed
    assert causes(receipts) == [Cause.CLIENT_DISCONNECT]


async def test_an_application_that_fails_is_to_blame() -> None:
    """G14: an error above an open stream is neither the reader's doing nor the producer's."""
    engine, receipts = Engine(5), list[Receipt]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def failing(message: Any) -> None:
            if message.get("body"):
                raise ZeroDivisionError
            await send(message)

        await GuardedResponse(engine.stream())(scope, receive, failing)

    with pytest.raises(ZeroDivisionError):
        await Server(StreamGuardMiddleware(app, on_receipt=receipts.append)).run()
    assert causes(receipts) == [Cause.CONSUMER_ERROR]
    assert "ZeroDivisionError" in receipts[0].detail
    assert engine.closed


async def test_an_application_that_fails_beside_its_stream_is_to_blame() -> None:
    """The same for a session that nobody reads when the application raises."""
    engine, receipts = Engine(5), list[Receipt]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await forgotten(engine, scope)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Server(StreamGuardMiddleware(app, on_receipt=receipts.append)).run()
    assert causes(receipts) == [Cause.CONSUMER_ERROR]
    assert engine.closed


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("Task cancelled, timeout graceful shutdown exceeded", Cause.SHUTDOWN),
        ("", Cause.OPERATOR_CANCEL),
    ],
)
async def test_a_server_that_cancels_is_to_blame(message: str, cause: Cause) -> None:
    """G14: a task cancelled while it sends was not cancelled by its reader; uvicorn says when it shuts down."""
    engine, receipts = Engine(1), list[Receipt]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await GuardedResponse(engine.stream())(scope, receive, send)

    async with Server(StreamGuardMiddleware(app, on_receipt=receipts.append)) as server:
        await server.events_sent(1)
        server.stall()
        engine.make()
        await eventually(lambda: server.senders)
        assert server.task is not None
        server.task.cancel(message)
        with pytest.raises(asyncio.CancelledError):
            await server.ended()
    assert causes(receipts) == [cause]
    assert engine.closed


async def test_a_server_that_cancels_because_the_reader_left_is_not() -> None:
    """Some servers cancel seconds later: the cause is the disconnect, and there is one receipt."""
    engine, receipts = Engine(1), list[Receipt]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await GuardedResponse(engine.stream())(scope, receive, send)
        await asyncio.Event().wait()

    async with Server(StreamGuardMiddleware(app, on_receipt=receipts.append)) as server:
        await server.events_sent(1)
        server.leave()
        await eventually(lambda: engine.closed)
        assert server.task is not None
        server.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await server.ended()
    assert causes(receipts) == [Cause.CLIENT_DISCONNECT]


async def test_cleanup_is_finished_although_the_server_cancels_again_and_again() -> None:
    """The producer's slow `finally` runs to its end before the request is over, and the receipt says so."""
    careful, receipts = Careful(), list[Receipt]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await GuardedResponse(careful.stream())(scope, receive, send)

    async with Server(StreamGuardMiddleware(app, on_receipt=receipts.append)) as server:
        await server.events_sent(1)
        server.leave()
        assert server.task is not None
        for _ in range(5):
            await asyncio.sleep(0)
            server.task.cancel()
        assert not server.task.done()
        careful.let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await server.ended()
    assert careful.order == ["cleaned"]
    assert [(receipt.cause, str(receipt.close)) for receipt in receipts] == [
        (Cause.CLIENT_DISCONNECT, "confirmed")
    ]


@in_virtual_time
async def test_the_end_of_a_request_is_bounded() -> None:
    """A producer that does not end delays its request by `shutdown_grace` at most; the receipt comes later."""
    receipts: list[Receipt] = []
    let_go = asyncio.Event()

    async def deaf() -> Any:
        yield "a"
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = StreamSession(deaf(), own_task=True)
        await GuardedResponse(session)(scope, receive, send)

    guarded = StreamGuardMiddleware(app, on_receipt=receipts.append, shutdown_grace=0.02)
    async with Server(guarded) as server:
        await server.events_sent(1)
        server.leave()
        await server.ended()
        assert receipts == []
        let_go.set()
        await eventually(lambda: receipts)
        await eventually(lambda: not guarded._late)
    assert causes(receipts) == [Cause.CLIENT_DISCONNECT]


BILLS = Termination(provider="aws-bedrock", on_close=OnClose.BILLS_FULL)


@pytest.mark.parametrize(
    ("policy", "applied"),
    [
        (grace(30), "grace(30s)"),
        (drain(30), "drain(30s)"),
        (by_provider(bills=drain(30)), "drain(30s)"),
    ],
)
def test_streams_that_outlive_their_request_are_reported(
    policy: DisconnectPolicy | ByProvider, applied: str
) -> None:
    """Under grace and drain a stream ends after its reader and its request; its receipt is not lost."""
    engine, receipts = Engine(1), list[Receipt]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        response = GuardedResponse(engine.stream(), on_disconnect=policy, termination=BILLS)
        await response(scope, receive, send)

    async def main() -> None:
        guarded = StreamGuardMiddleware(app, on_receipt=receipts.append, shutdown_grace=1)
        async with Server(guarded) as server:
            await server.events_sent(1)
            server.leave()
            await server.ended()
            assert receipts == []
            await asyncio.sleep(31)
            assert causes(receipts) == [Cause.CLIENT_DISCONNECT]

    run(main())
    assert (receipts[0].policy, receipts[0].termination) == (applied, str(BILLS))
    assert receipts[0].prevented.value == 0
    assert engine.closed


async def test_nothing_is_left_behind() -> None:
    """After a request whose reader stays connected, no task of ours waits for it to leave."""
    engine = Engine(1)
    engine.finish()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await GuardedResponse(engine.stream())(scope, receive, send)

    for guarded in (StreamGuardMiddleware(app), app):
        before = asyncio.all_tasks()
        server = await Server(guarded).run()
        await eventually(lambda before=before: asyncio.all_tasks() <= before)  # type: ignore[misc]
        assert server.readers == 0


async def test_a_task_left_behind_does_not_stream_under_a_finished_request() -> None:
    """What a request started and forgot finds no guard that has ended; its own stream is not cut off."""
    left_behind: list[asyncio.Task[Server]] = []

    async def late() -> Server:
        engine = Engine(1)
        engine.finish()
        await eventually(outer.task.done)  # type: ignore[union-attr]
        return await Server(GuardedResponse(engine.stream())).run()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        left_behind.append(asyncio.create_task(late()))
        engine = Engine(1)
        await GuardedResponse(engine.stream())(scope, receive, send)

    async with Server(StreamGuardMiddleware(app)) as outer:
        await outer.events_sent(1)
        outer.leave()
        await outer.ended()
        inner = await left_behind[0]
    assert '"cause":"COMPLETED"' in inner.text
