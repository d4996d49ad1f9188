"""Acknowledgements of streams whose readers may come back: one count over all connections, and a clock that waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamguard_asgi import Acknowledge, Resume
from streamguard_core import Cause
from streamguard_core.testing import run

from ..adapters.resuming import ids, tokens  # noqa: TID252 - one rig for all adapters
from .acknowledging import Rig
from .driver import causes, eos, eventually

STALL = 10.0


async def test_one_count_over_all_connections() -> None:
    """What a reader resumes from is acknowledged; the rest it acknowledges on the connection that it has then."""
    rig = Rig(resume=Resume())
    async with rig.get() as server:
        await server.events_sent(3)
        last = ids(server.text)[-1]
        name = last.rpartition(":")[0]
        assert (await rig.post(f"/streams/{name}/acknowledged/1"))[1]["consumed"] == 1
        server.leave()
        await server.ended()
    async with rig.get(last) as server:
        await server.until(lambda: bool(server.sent))
        assert server.headers["streamguard-acknowledge"] == "1000"
        assert (await rig.post(f"/streams/{name}/acknowledged/2"))[1] == {
            "stream_id": name.rpartition(".")[0],
            "counted": False,
            "consumed": 3,
            "sealed": False,
        }
        rig.engines[0].make(2)
        await server.events_sent(2)
        assert tokens(server.text) == ["token4 ", "token5 "]
        rig.engines[0].finish()
        await server.ended()
        assert eos(server)["committed"] == 5
    await rig.acknowledged(server, 5)
    await eventually(lambda: rig.receipts)
    assert [(receipt.cause, receipt.consumed) for receipt in rig.receipts] == [(Cause.COMPLETED, 5)]


async def test_what_is_sent_again_is_owed_again() -> None:
    """A reader that comes back with less than it had is sent the rest; the count does not go back."""
    rig = Rig(resume=Resume())
    async with rig.get() as server:
        await server.events_sent(3)
        await rig.acknowledged(server, 2)
        first = ids(server.text)[1]
        server.leave()
        await server.ended()
    async with rig.get(first) as server:
        await server.events_sent(2)
        assert len(tokens(server.text)) == 2
        assert (await rig.acknowledged(server, 1))[1]["consumed"] == 2
        assert (await rig.acknowledged(server, 3))[1]["consumed"] == 3
        assert (await rig.post(f"/streams/{first.rpartition(':')[0]}/stop"))[1]["stopped"]
        await server.ended()
    await eventually(lambda: rig.receipts)
    assert [(receipt.cause, receipt.consumed) for receipt in rig.receipts] == [
        (Cause.USER_CANCEL, 3)
    ]


def test_a_reader_that_is_away_is_not_stalled() -> None:
    """Its deadline stands still while it is gone, begins anew when it is back, and then holds on that connection."""
    rig = Rig(resume=Resume(window=60), consumer_stall=STALL)

    async def main() -> None:
        async with rig.get() as server:
            await server.events_sent(3)
            last = ids(server.text)[0]
            await asyncio.sleep(5)
            server.leave()
            await server.ended()
        await asyncio.sleep(30)
        assert rig.receipts == []
        async with rig.get(last) as server:
            await server.events_sent(3)
            await asyncio.sleep(STALL - 0.1)
            assert not server.complete
            await asyncio.sleep(0.2)
            assert eos(server)["cause"] == "CONSUMER_STALLED"

    run(main())
    assert causes(rig.receipts) == [Cause.CONSUMER_STALLED]


async def test_after_the_end() -> None:
    """A stream that ended while its reader was away is sealed; what is replayed afterwards is not on its receipt."""
    rig = Rig(resume=Resume())
    async with rig.get() as server:
        await server.events_sent(3)
        last = ids(server.text)[2]
        server.leave()
        await server.ended()
    rig.engines[0].make()
    rig.engines[0].finish()
    await eventually(lambda: rig.receipts)
    assert [(receipt.cause, receipt.consumed) for receipt in rig.receipts] == [(Cause.COMPLETED, 0)]
    server = await rig.get(last).run()
    assert eos(server)["committed"] == 4
    status, said = await rig.acknowledged(server, 4)
    assert (status, said["counted"], said["sealed"]) == (200, False, True)


async def test_what_fails_before_it_is_served_is_not_kept() -> None:
    """A stream that ends while `Acknowledge` asks for its owner is forgotten by its `Resume` as any that has ended."""

    async def owner(_: Any) -> str:
        raise LookupError("the users' table is away")

    resume = Resume(max_ended=0)
    rig = Rig(Acknowledge(owner=owner), resume=resume)
    async with rig.get() as server:
        with pytest.raises(LookupError):
            await server.ended()
    assert repr(resume) == "<Resume window=30s, 0 streams>"
    assert rig.acknowledge.live == 0
    assert [receipt.cause for receipt in rig.receipts] == [Cause.CONSUMER_ERROR]
