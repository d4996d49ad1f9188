"""WebSockets over real sockets: what uvicorn's protocols say of a close, an abort and a shutdown."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from streamguard_asgi import StreamGuardMiddleware, stream_websocket
from streamguard_core import Cause, Receipt

from .driver import Engine
from .test_servers import serve, within

PROTOCOLS = ["websockets-sansio", "wsproto"]


class Rig:
    """A chat over a WebSocket, each prompt answered by an engine of its own."""

    def __init__(self, tokens: int, size: int = 0, **options: Any) -> None:
        self.receipts: list[Receipt] = []
        self.engines: list[Engine] = []
        self._tokens, self._size, self._options = tokens, size, options
        self.app = FastAPI()
        self.app.add_middleware(
            StreamGuardMiddleware, on_receipt=self.receipts.append, shutdown_grace=0.5
        )
        self.app.websocket("/")(self._chat)

    async def _chat(self, websocket: WebSocket) -> None:
        await websocket.accept()
        async for _ in websocket.iter_text():
            engine = Engine(self._tokens, self._size)
            self.engines.append(engine)
            await stream_websocket(websocket, engine.stream, **self._options)

    async def asked(self, url: str) -> ClientConnection:
        """A connection whose first prompt is being answered."""
        client = await connect(url.replace("http", "ws"), compression=None)
        await client.send("Why?")
        await within(lambda: self.engines and self.engines[-1].started)
        return client

    async def ended(self, cause: Cause) -> Receipt:
        """The one receipt, once it is there."""
        await within(lambda: self.receipts)
        await within(lambda: all(engine.closed for engine in self.engines))
        (receipt,) = self.receipts
        assert receipt.cause is cause
        return receipt


async def heard(client: ClientConnection, until: str) -> list[Any]:
    """The messages up to the first that has this key."""
    found: list[Any] = []
    while not found or until not in found[-1]:
        found.append(json.loads(await client.recv()))
    return found


@pytest.mark.parametrize("ws", PROTOCOLS)
class TestReaders:
    """One reader, on each of uvicorn's protocols."""

    async def test_a_whole_stream(self, ws: str) -> None:
        """Name, text, end, and close code 1000."""
        rig = Rig(3)
        async with serve(rig.app, "h11", ws=ws) as (_, url):
            client = await rig.asked(url)
            rig.engines[0].finish()
            said = await heard(client, "eos")
            with pytest.raises(ConnectionClosed):
                await client.recv()
            receipt = await rig.ended(Cause.COMPLETED)
        assert said[0] == {"stream_id": receipt.stream_id}
        assert "".join(each.get("text", "") for each in said) == "token1 token2 token3 "
        assert said[-1]["eos"]["cause"] == "COMPLETED"
        assert client.close_code == 1000

    @pytest.mark.parametrize("tokens", [0, 2])
    @pytest.mark.parametrize("how", ["close", "abort"])
    async def test_leaving(self, ws: str, tokens: int, how: str) -> None:
        """Before the first token and mid-stream, with a goodbye and without: nothing more is generated."""
        rig = Rig(tokens)
        async with serve(rig.app, "h11", ws=ws) as (server, url):
            before = len(asyncio.all_tasks())
            client = await rig.asked(url)
            if tokens:
                await heard(client, "text")
            if how == "close":
                await client.close(1001)
            else:
                client.transport.abort()
            receipt = await rig.ended(Cause.CLIENT_DISCONNECT)
            await client.wait_closed()
            await within(lambda: not server.server_state.connections)
            await within(lambda: len(asyncio.all_tasks()) <= before)
        assert receipt.produced == rig.engines[0].generated == tokens
        codes = (1001,) if how == "close" else (1005, 1006)
        assert receipt.detail in [f"the WebSocket was closed ({code})" for code in codes]

    async def test_a_stop(self, ws: str) -> None:
        """It cancels at once, the end says so, and the connection is free for the next stream."""
        rig = Rig(1, close=False)
        async with serve(rig.app, "h11", ws=ws) as (_, url):
            client = await rig.asked(url)
            await heard(client, "text")
            await client.send(json.dumps({"stop": True}))
            said = await heard(client, "eos")
            assert said[-1]["eos"]["cause"] == "USER_CANCEL"
            await rig.ended(Cause.USER_CANCEL)
            await client.send("And then?")
            await within(lambda: len(rig.engines) == 2)
            rig.engines[1].finish()
            said = await heard(client, "eos")
            assert said[-1]["eos"]["cause"] == "COMPLETED"
            await client.close()
        assert [receipt.cause for receipt in rig.receipts] == [Cause.USER_CANCEL, Cause.COMPLETED]

    async def test_a_server_that_goes(self, ws: str) -> None:
        """G14: uvicorn closes its WebSockets itself when it shuts down; that is not the reader."""
        rig = Rig(1)
        async with serve(rig.app, "h11", ws=ws) as (server, url):
            client = await rig.asked(url)
            await heard(client, "text")
            async with asyncio.timeout(5):
                await server.shutdown()
            await rig.ended(Cause.SHUTDOWN)
            await client.wait_closed()
        assert client.close_code == 1012

    async def test_a_reader_that_freezes(self, ws: str) -> None:
        """Cut off as stalled, and the server keeps no connection for it."""
        rig = Rig(10_000, size=10_000, consumer_stall=0.2)
        async with serve(rig.app, "h11", ws=ws, ws_ping_interval=None) as (server, url):
            client = await connect(url.replace("http", "ws"), compression=None, max_queue=1)
            client.transport.pause_reading()
            await client.send("Why?")
            await within(lambda: rig.receipts)
            await rig.ended(Cause.CONSUMER_STALLED)
            await within(lambda: not server.server_state.connections)
            client.transport.abort()
            await client.wait_closed()


@pytest.mark.parametrize("ws", PROTOCOLS)
async def test_a_hundred_readers_are_killed_before_their_first_token(ws: str) -> None:
    """Each has one receipt, its provider is let go, and nothing stays behind."""
    rig = Rig(0)
    async with serve(rig.app, "h11", ws=ws) as (server, url):
        before = len(asyncio.all_tasks())
        clients = [await rig.asked(url) for _ in range(100)]
        for client in clients:
            client.transport.abort()
        await within(lambda: len(rig.receipts) == 100)
        for client in clients:
            await client.wait_closed()
        await within(lambda: len(asyncio.all_tasks()) <= before)
        assert not server.server_state.connections
    assert {receipt.cause for receipt in rig.receipts} == {Cause.CLIENT_DISCONNECT}
    assert len({receipt.stream_id for receipt in rig.receipts}) == 100
    assert all(engine.closed and engine.generated == 0 for engine in rig.engines)
