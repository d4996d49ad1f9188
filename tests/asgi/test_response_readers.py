"""`GuardedResponse`: silence is filled with pings, and slow, stalled and lost readers are noticed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from math import inf
from typing import Any

import pytest
from starlette.background import BackgroundTask

from streamguard_asgi import GuardedResponse, StreamGuardMiddleware, current_scope
from streamguard_core import (
    Cause,
    CloseState,
    Deadlines,
    StreamSession,
    grace,
)

from .driver import Engine, Server, eventually, in_virtual_time


@in_virtual_time
async def test_silence_is_filled_with_comments() -> None:
    """A producer that thinks keeps its connection: pings come, and no client sees them as events."""
    engine = Engine()
    async with Server(GuardedResponse(engine.stream(), ping=0.2)) as server:
        await server.until(lambda: server.text.count(": ping\n\n") >= 3)
        engine.make()
        engine.finish()
        await server.ended()
    assert [name for name, _ in server.events] == ["message", "eos"]
    assert server.most_senders == 1


@in_virtual_time
async def test_no_ping_where_there_is_no_silence_or_no_wish() -> None:
    """`ping=None` sends none; plain text, in which one would be seen, has none."""
    for options in ({"ping": None}, {"ping": 0.2, "media_type": "text/plain"}):
        session = StreamSession(Engine().stream(), deadlines=Deadlines(first_token=2))
        server = await Server(GuardedResponse(session, **options)).run()
        assert server.text.replace("\n", "")[:5] in ("event", "")


@in_virtual_time
async def test_a_ping_never_stands_inside_a_frame() -> None:
    """A chunk that comes while a ping is being sent waits for it: no two sends at once."""
    engine = Engine()
    async with Server(GuardedResponse(engine.stream(), ping=0.2)) as server:
        await server.until(lambda: len(server.sent) == 1)
        server.stall()
        await asyncio.sleep(0.3)
        assert server.senders
        engine.make(2)
        for _ in range(10):
            await asyncio.sleep(0)
        server.resume()
        await server.events_sent(2)
        engine.finish()
        await server.ended()
    assert server.most_senders == 1
    assert server.bodies[0] == b": ping\n\n"


@in_virtual_time
async def test_a_reader_whose_ping_fails_has_left() -> None:
    """ASGI 2.4: a ping into a closed connection raises, and that is a disconnect."""
    engine = Engine()
    session = StreamSession(engine.stream())
    async with Server(GuardedResponse(session, ping=0.2), mode="raising", mute=True) as server:
        await server.until(lambda: len(server.sent) == 1)
        server.leave()
        await server.ended()
    receipt = await session.receipt()
    assert receipt.cause is Cause.CLIENT_DISCONNECT


async def test_a_send_that_raises_is_a_disconnect() -> None:
    """ASGI 2.4: told by `send` alone, the stream ends as if `receive` had told, and nothing is raised."""
    engine = Engine(1)
    session = StreamSession(engine.stream())
    async with Server(GuardedResponse(session), mode="raising", mute=True, spec="2.4") as server:
        await server.events_sent(1)
        server.leave()
        engine.make(5)
        await server.ended()
    receipt = await session.receipt()
    assert (receipt.cause, receipt.detail) == (Cause.CLIENT_DISCONNECT, "send() raised OSError")
    assert engine.closed


async def test_a_loop_that_shuts_down_is_not_the_reader() -> None:
    """`asyncio.run` cancels every task at its end, the one that sends too: one receipt, and the application's."""
    engine = Engine(1)
    session = StreamSession(engine.stream())
    async with Server(GuardedResponse(session)) as server:
        await server.events_sent(1)
        server.stall()
        engine.make()
        await eventually(lambda: server.senders)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await server.ended()
    assert (await session.receipt()).cause is Cause.OPERATOR_CANCEL
    assert engine.closed


async def test_the_scope_may_be_ended_from_a_thread() -> None:
    """`disconnected()` of a request's scope is safe from any thread, also while a `send` waits."""
    engine = Engine(1)
    session = StreamSession(engine.stream())
    async with Server(StreamGuardMiddleware(GuardedResponse(session))) as server:
        await server.events_sent(1)
        server.stall()
        engine.make()
        await eventually(lambda: server.senders)
        await asyncio.to_thread(server.scope["state"]["streamguard"].disconnected, "elsewhere")
        await server.ended()
    receipt = await session.receipt()
    assert (receipt.cause, receipt.detail) == (Cause.CLIENT_DISCONNECT, "elsewhere")


@in_virtual_time
async def test_a_send_that_does_not_return_is_a_stalled_consumer() -> None:
    """The stream is cut off, the response given up on, and the connection not ended cleanly."""
    engine = Engine(1)
    session = StreamSession(engine.stream())
    async with Server(GuardedResponse(session, consumer_stall=0.4)) as server:
        await server.events_sent(1)
        server.stall()
        engine.make()
        await server.ended()
    receipt = await session.receipt()
    assert receipt.cause is Cause.CONSUMER_STALLED
    assert (receipt.committed, receipt.consumed) == (2, 1)
    assert engine.closed
    assert not server.complete
    assert server.task is not None
    assert server.task.cancelling() == 0


@in_virtual_time
async def test_a_ping_that_does_not_return_is_a_stalled_consumer() -> None:
    """The buffers filled with the last chunk: then it is a ping that waits, and nothing else would tell."""
    engine = Engine(1)
    session = StreamSession(engine.stream())
    response = GuardedResponse(session, ping=0.2, consumer_stall=0.4)
    async with Server(response) as server:
        await server.events_sent(1)
        server.stall()
        await server.ended()
    receipt = await session.receipt()
    assert receipt.cause is Cause.CONSUMER_STALLED
    assert (receipt.committed, receipt.consumed) == (1, 1)
    assert engine.closed


@in_virtual_time
async def test_the_middleware_says_it_for_all() -> None:
    """`consumer_stall` of the middleware holds for a response that does not say it, `inf` is without limit."""
    for own, cause in ((None, Cause.CONSUMER_STALLED), (inf, Cause.TIMEOUT_TOTAL)):
        engine = Engine(1)
        session = StreamSession(engine.stream(), deadlines=Deadlines(total=2))
        app = StreamGuardMiddleware(
            GuardedResponse(session, consumer_stall=own), consumer_stall=0.2
        )
        async with Server(app) as server:
            await server.events_sent(1)
            server.stall()
            engine.make()
            assert (await session.receipt()).cause is cause
            server.leave()
            await server.ended()


@in_virtual_time
async def test_a_stall_at_the_end_is_noticed_too() -> None:
    """A reader that freezes before the last message does not keep a finished stream's connection for ever."""
    engine = Engine(1)
    session = StreamSession(engine.stream())
    async with Server(GuardedResponse(session, consumer_stall=0.4)) as server:
        await server.events_sent(1)
        server.stall()
        engine.finish()
        await server.ended()
    assert (await session.receipt()).cause is Cause.COMPLETED
    assert not server.complete


@in_virtual_time
async def test_the_sessions_own_stall_deadline_frees_the_response() -> None:
    """`Deadlines(consumer_stall=...)` ends the waiting `send` as well as the stream."""
    engine = Engine(1)
    session = StreamSession(engine.stream(), deadlines=Deadlines(consumer_stall=0.3))
    async with Server(GuardedResponse(session)) as server:
        await server.events_sent(1)
        server.stall()
        engine.make()
        await server.ended()
    assert (await session.receipt()).cause is Cause.CONSUMER_STALLED


async def test_a_slow_reader_holds_the_producer_back_and_gets_everything() -> None:
    """While `send` waits nothing runs ahead but the step that is under way; afterwards nothing is missing."""
    engine = Engine(50)
    async with Server(GuardedResponse(engine.stream())) as server:
        await server.until(lambda: len(server.sent) >= 2)
        server.stall()
        made = engine.generated
        for _ in range(20):
            await asyncio.sleep(0)
        assert engine.generated <= made + 17
        server.resume()
        engine.finish()
        await server.ended()
    texts = [data for name, data in server.events if name == "message"]
    assert texts == [f"token{n} " for n in range(1, 51)]


async def test_what_is_committed_is_not_sent_to_nobody() -> None:
    """A pushed stream has chunks in flight when its slow reader leaves: they are not sent, nor counted so."""
    engine = Engine(40)
    session = StreamSession(engine.stream(), own_task=True)
    async with Server(GuardedResponse(session)) as server:
        await server.until(lambda: len(server.sent) == 1)
        server.stall()
        await eventually(lambda: session.statistics().inflight == 16 and server.senders)
        server.leave()
        await server.ended()
    receipt = await session.receipt()
    assert (receipt.cause, receipt.consumed) == (Cause.CLIENT_DISCONNECT, 0)
    assert receipt.committed == 16
    assert server.sent_after_leaving <= 1


async def test_a_batch_that_meets_the_disconnect_is_not_sent() -> None:
    """A chunk is committed, and in the same turn of the loop the reader leaves: nothing is sent any more."""

    async def producer() -> AsyncIterator[str]:
        yield "a"
        scope = current_scope()
        assert scope is not None
        scope.disconnected("the connection was closed")
        await asyncio.Event().wait()

    session = StreamSession(producer(), own_task=True)
    server = await Server(StreamGuardMiddleware(GuardedResponse(session))).run()
    receipt = await session.receipt()
    assert (receipt.cause, receipt.committed, receipt.consumed) == (Cause.CLIENT_DISCONNECT, 1, 0)
    assert server.bodies == []


async def test_under_grace_the_response_ends_and_the_stream_lives_on() -> None:
    """A reader that left is not sent to; its stream waits for it as long as the policy says."""
    engine = Engine(1)
    session = StreamSession(engine.stream(), on_disconnect=grace(30))
    async with Server(GuardedResponse(session)) as server:
        await server.events_sent(1)
        server.leave()
        await server.ended()
        assert session.cause is None
        engine.make(3)
        await eventually(lambda: engine.generated == 4)
        session.cancel()
    receipt = await session.receipt()
    assert receipt.cause is Cause.USER_CANCEL
    assert server.sent_after_leaving == 0


@pytest.mark.parametrize("how", ["leaves", "cancel"])
@in_virtual_time
async def test_a_deaf_iterator_does_not_hold_its_response(how: str) -> None:
    """At the close deadline it is given up on: the response ends, with its `eos` if there is a reader."""
    awake = asyncio.Event()

    async def deaf() -> AsyncIterator[str]:
        yield "a"
        while not awake.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await awake.wait()
        yield "b"

    session = StreamSession(deaf(), deadlines=Deadlines(close=2))
    async with Server(GuardedResponse(session)) as server:
        await server.until(lambda: "data: a" in server.text)
        if how == "leaves":
            server.leave()
        else:
            session.cancel()
        await server.ended()
        receipt = await session.receipt()
        assert receipt.close is CloseState.UNCONFIRMED
        sent = server.events
        assert [name for name, _ in sent] == ["message", "eos"][: 1 + (how == "cancel")]
        awake.set()
        await eventually(lambda: not any("Delivery" in repr(one) for one in asyncio.all_tasks()))
        assert server.events == sent


async def test_calls_after_the_stream_are_the_requests_own() -> None:
    """What a background task asks a provider for is not refused because the stream is over."""
    seen: list[object] = []

    class Call:
        def disconnected(self, detail: str = "") -> None:
            seen.append(detail)

        def terminate(self, cause: Cause, detail: str = "") -> None:
            seen.append(cause)

    def ask_again() -> None:
        scope = current_scope()
        assert scope is not None
        seen.append(scope.session)
        scope.add(Call())

    async def words() -> AsyncIterator[str]:
        scope = current_scope()
        assert scope is not None
        assert scope.session is not None
        yield "a"

    async def application(scope: Any, receive: Any, send: Any) -> None:
        response = GuardedResponse(words(), background=BackgroundTask(ask_again))
        await response(scope, receive, send)

    await Server(StreamGuardMiddleware(application)).run()
    assert seen == [None]
