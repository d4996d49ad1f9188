"""Hundreds of readers that acknowledge and freeze, on real sockets: all are cut off, and nothing of them is left."""

from __future__ import annotations

import asyncio

import pytest

from streamguard_asgi import Acknowledge
from streamguard_core import Cause
from streamguard_testing import RawClient

from .acknowledging import Rig
from .driver import BOUND
from .test_servers import SERVERS, serve, within

READERS = 250
CHUNKS = 10
STALL = 2.0


async def freeze(url: str) -> RawClient:
    """A reader that takes some chunks, says so, and takes nothing more."""
    client = await RawClient.open(url, headers={"streamguard-acknowledge": "1"})
    assert await client.read_head() == 200
    await client.read_until(CHUNKS)
    name = client.headers["streamguard-stream-id"]
    path = f"/streams/{name}/acknowledged/{CHUNKS}"
    async with await RawClient.open(url, "POST", path) as telling:
        assert await telling.read_head() == 200
    return client


@pytest.mark.parametrize("http", SERVERS)
async def test_all_that_freeze_are_cut_off_and_nothing_is_left(http: str) -> None:
    """No `send` blocks, and yet each is stalled, with the count it gave; no task, socket or session stays behind."""
    acknowledge = Acknowledge()
    rig = Rig(acknowledge, consumer_stall=STALL)
    rig.tokens = CHUNKS
    # What is left open is not closed for being idle meanwhile.
    async with serve(rig.app, http, timeout_keep_alive=3600) as (server, url):
        before = len(asyncio.all_tasks())
        clients = [await freeze(url) for _ in range(READERS)]
        assert rig.receipts == []
        for engine in rig.engines:
            engine.make(5)
        await within(lambda: len(rig.receipts) == READERS, STALL + 2 * BOUND)
        await within(lambda: not server.server_state.connections)
        await within(lambda: len(asyncio.all_tasks()) <= before)
        for client in clients:
            client.leave()
    assert {(receipt.cause, receipt.consumed) for receipt in rig.receipts} == {
        (Cause.CONSUMER_STALLED, CHUNKS)
    }
    assert all(engine.closed for engine in rig.engines)
    assert acknowledge.live == 0
