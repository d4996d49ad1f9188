"""Readers whose connection breaks, on real sockets: they come back, and miss nothing."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from fastapi import FastAPI

from streamguard_asgi import Resume, StreamGuardMiddleware, guard_stream
from streamguard_core import Cause, Receipt, StreamSession
from streamguard_providers import OpenAIProducer
from streamguard_testing import Leave, LoopbackEngine

from .driver import BOUND, Engine
from .readers import SSEReader
from .test_servers import SERVERS, serve, within


def app_of(resume: Resume, receipts: list[Receipt], make: Any) -> Any:
    """A FastAPI application with one resumable endpoint, and the addresses of its streams."""
    app = FastAPI()
    app.mount("/streams", resume)

    @app.get("/")
    @guard_stream(resume=resume)
    async def chat() -> Any:
        return make()

    app.add_middleware(StreamGuardMiddleware, on_receipt=receipts.append)
    return app


@pytest.mark.parametrize("http", SERVERS)
async def test_fifty_reconnects(http: str) -> None:
    """50 connections broken at random points: the text is the engine's, no gap, no repeat, one receipt, one call."""
    receipts: list[Receipt] = []
    chance = random.Random(50)
    async with LoopbackEngine(answer_tokens=400) as engine:

        def ask() -> OpenAIProducer:
            return OpenAIProducer(
                "m", base_url=engine.openai_url, prompt="Tell me a story.", options={"seed": 7}
            )

        app = app_of(Resume(window=BOUND), receipts, ask)
        async with serve(app, http) as (_, url):
            reader = SSEReader(url)
            places = sorted(chance.sample(range(1, 400), 50))
            for index, place in enumerate(places):
                assert await reader.connect() == 200
                assert not await reader.read(place)
                reader.leave([Leave.CLOSE, Leave.RESET][index % 2])
            assert await reader.connect() == 200
            assert await reader.read(10_000)
            reader.leave()
            await within(lambda: receipts)
        assert [request.generated for request in engine.requests] == [400]
        session = StreamSession(ask())
        assert reader.text == "".join([str(chunk) async for chunk in session])
    assert [int(each.rpartition(":")[2]) for each in reader.ids] == sorted(
        {int(each.rpartition(":")[2]) for each in reader.ids}
    )
    (receipt,) = receipts
    assert receipt.cause is Cause.COMPLETED
    assert reader.eos["committed"] == receipt.committed == receipt.consumed
    assert {signal.cause for signal in receipt.history if signal.intent} == {
        Cause.CLIENT_DISCONNECT
    }


@pytest.mark.parametrize("http", SERVERS)
async def test_the_old_connection_is_still_there(http: str) -> None:
    """A reader that comes back before its old connection is known to be dead wins; the old one is told."""
    engine, receipts = Engine(3), list[Receipt]()
    async with serve(app_of(Resume(window=BOUND), receipts, engine.stream), http) as (_, url):
        old = SSEReader(url)
        await old.connect()
        await old.read(3)
        new = SSEReader(url)
        assert await new.connect(old.ids[1]) == 200
        engine.make(2)
        await new.read(3)
        await old.read(4)
        assert "superseded" in old.named
        assert new.texts == ["token3 ", "token4 ", "token5 "]
        old.leave()
        engine.make(1)
        engine.finish()
        assert await new.read(100)
        new.leave()
        await within(lambda: receipts)
    assert (receipts[0].cause, receipts[0].consumed) == (Cause.COMPLETED, 6)


@pytest.mark.parametrize("http", SERVERS)
async def test_the_stop_button(http: str) -> None:
    """Stopped at once, as the reader's own wish; a second, stale wish is answered and changes nothing."""
    engine, receipts = Engine(2), list[Receipt]()
    async with serve(app_of(Resume(), receipts, engine.stream), http) as (_, url):
        reader = SSEReader(url)
        await reader.connect()
        await reader.read(2)
        for stopped in (b'"stopped":true', b'"stopped":false'):
            said = await reader.stop()
            assert stopped in said
            assert b"USER_CANCEL" in said
        assert await reader.read(100)
        reader.leave()
        assert reader.eos["cause"] == "USER_CANCEL"
        await within(lambda: receipts)
    assert engine.closed
    assert (receipts[0].cause, receipts[0].consumed) == (Cause.USER_CANCEL, 2)


async def test_the_reader_does_not_come_back() -> None:
    """When the window is over the stream is cut off; one receipt, and the answer to a late reader is clear."""
    engine, receipts = Engine(2), list[Receipt]()
    async with serve(app_of(Resume(window=0.05), receipts, engine.stream), "h11") as (_, url):
        reader = SSEReader(url)
        await reader.connect()
        await reader.read(2)
        reader.leave()
        await within(lambda: receipts)
        async with asyncio.timeout(BOUND):
            while await reader.connect() == 200:
                reader.leave()
        reader.leave()
        assert reader.status == 404
    assert engine.closed
    assert [receipt.cause for receipt in receipts] == [Cause.CLIENT_DISCONNECT]
