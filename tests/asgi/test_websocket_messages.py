"""What a reader says over a WebSocket while a stream is sent: stops, and messages that are the application's."""

from __future__ import annotations

import asyncio

import pytest
from fastapi.websockets import WebSocket

from streamguard_asgi import stream_websocket
from streamguard_core import Cause, UsageError

from .driver import Engine, eventually
from .socket_rig import Rig, streaming


@pytest.mark.parametrize("named", [True, False])
async def test_a_stop_cancels_at_once(named: bool) -> None:
    """`{"stop": ...}` is the user's own end: no error, 1000, and the provider is let go."""
    engine = Engine(1)
    rig = Rig(streaming(engine.stream))
    async with rig.socket() as socket:
        await socket.came("token1")
        socket.say({"stop": socket.stream_ids[0] if named else True})
        await socket.ended()
        assert engine.closed
    assert socket.closed == (1000, "USER_CANCEL")
    assert "error" not in socket.ends[0]
    assert [receipt.cause for receipt in rig.receipts] == [Cause.USER_CANCEL]


async def test_a_stale_stop_is_ignored_and_other_messages_are_the_applications() -> None:
    """A stop that names another stream, or comes when none is sent, stops nothing and reaches nobody."""
    heard: list[str] = []
    engine = Engine(1)

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            heard.append(text)
            await stream_websocket(websocket, engine.stream, close=False)

    rig = Rig(handler)
    async with rig.socket() as socket:
        socket.say("one")
        await socket.came("token1")
        socket.say({"stop": "another"})
        socket.say({"stop": None, "text": "mine"})
        socket.say('{"stop"')
        socket.say("[1]")
        await eventually(lambda: socket.taken == 6)
        assert not engine.closed
        engine.finish()
        await eventually(lambda: len(rig.receipts) >= 1)
        socket.say({"stop": True})
        await eventually(lambda: len(rig.receipts) == 4)
        socket.say("last")
        await eventually(lambda: len(rig.receipts) == 5)
    assert heard == ["one", '{"stop": null, "text": "mine"}', '{"stop"', "[1]", "last"]
    assert {receipt.cause for receipt in rig.receipts} == {Cause.COMPLETED}
    assert socket.most_readers == 1


async def test_an_application_may_read_while_a_stream_is_sent() -> None:
    """Its own task reads its own messages; a cancelled read loses none."""
    heard: list[str] = []
    engine = Engine(1)

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()

        async def read() -> None:
            async for text in websocket.iter_text():
                heard.append(text)  # noqa: PERF401 - looked at meanwhile

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(websocket.receive_text(), 0.001)
        reading = asyncio.create_task(read())
        await stream_websocket(websocket, engine.stream)
        await reading

    rig = Rig(handler)
    async with rig.socket() as socket:
        await socket.came("token1")
        socket.say("more")
        await eventually(lambda: heard)
        socket.say({"stop": True})
        await socket.ended()
    assert heard == ["more"]
    assert [receipt.cause for receipt in rig.receipts] == [Cause.USER_CANCEL]


async def test_an_application_that_closes_has_ended_its_stream() -> None:
    """G14: a close that the application sends is not the reader's leaving."""
    engine = Engine(1)

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        streaming = asyncio.create_task(stream_websocket(websocket, engine.stream))
        await websocket.receive_text()
        await websocket.close(4000)
        await streaming

    rig = Rig(handler)
    async with rig.socket() as socket:
        await socket.came("token1")
        socket.say("enough")
        await socket.ended()
    assert socket.closed is not None
    assert socket.closed[0] == 4000
    assert engine.closed
    assert [receipt.cause for receipt in rig.receipts] == [Cause.OPERATOR_CANCEL]


async def test_messages_beyond_the_limit_hide_no_stop() -> None:
    """While a stream is sent reading goes on: what nobody takes is dropped, and reading it then is an error."""
    engine = Engine(1)
    errors: list[Exception] = []

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await stream_websocket(websocket, engine.stream, close=False)
        try:
            while True:
                await websocket.receive_text()
        except UsageError as error:
            errors.append(error)

    rig = Rig(handler, buffer_limit=1000)
    async with rig.socket() as socket:
        await socket.came("token1")
        for _ in range(20):
            socket.say("x" * 100)
        socket.say({"stop": True})
        await socket.ended()
    assert [receipt.cause for receipt in rig.receipts] == [Cause.USER_CANCEL]
    assert "raise buffer_limit" in str(errors[0])


async def test_without_a_stream_reading_pauses_at_the_limit() -> None:
    """What nobody takes is not piled up, and nothing is lost."""
    taken: list[str] = []
    go = asyncio.Event()

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await go.wait()
        async for text in websocket.iter_text():
            taken.append(text)  # noqa: PERF401 - looked at meanwhile

    rig = Rig(handler, buffer_limit=1000)
    async with rig.socket() as socket:
        for number in range(50):
            socket.say(f"{number}".ljust(100))
        await eventually(lambda: socket.taken > 3)
        for _ in range(20):
            await asyncio.sleep(0)
        assert socket.taken <= 9
        go.set()
        await eventually(lambda: len(taken) == 50)
    assert [int(text) for text in taken] == list(range(50))
