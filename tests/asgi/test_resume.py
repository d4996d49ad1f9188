"""Resuming by `Last-Event-ID`: what was missed is sent again, once, over the newest connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from streamguard_asgi import GuardedResponse, Resume, StreamGuardMiddleware
from streamguard_core import Cause

from .driver import Server, eos, eventually
from .resuming import Rig, ids, moved, texts


async def test_the_first_bytes_say_where_to_resume() -> None:
    """A reader that loses its connection before the first token does not pay for a second answer."""
    rig = Rig(Resume(retry=2.5))
    rig.tokens = 0
    async with rig.get() as server:
        await server.until(lambda: bool(server.bodies))
        server.leave()
        await server.ended()
    assert server.bodies[0].endswith(b":0\nretry: 2500\n\n")
    rig.engines[0].make(1)
    rig.engines[0].finish()
    again = await rig.get(ids(server)[-1]).run()
    assert (texts(again), len(rig.engines)) == (["token1 "], 1)


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
async def test_what_was_missed_is_sent_again(offset: int) -> None:
    """From whatever event the reader got last: no gap, no repeat, the same ids, one receipt."""
    rig = Rig()
    last = await rig.broken_off()
    rig.engines[0].make(2)
    async with rig.get(moved(last, offset=offset)) as again:
        await again.events_sent(5 - offset)
        rig.engines[0].finish()
        await again.ended()
    assert texts(again) == [f"token{number} " for number in range(offset + 1, 6)]
    assert ids(again)[1:-1] == [str(moved(last, offset=number)) for number in range(offset + 1, 6)]
    assert eos(again)["cause"] == "COMPLETED"
    assert [(receipt.cause, receipt.consumed) for receipt in rig.receipts] == [(Cause.COMPLETED, 5)]
    assert len(rig.engines) == 1


async def test_a_stream_that_ended_meanwhile() -> None:
    """It is replayed to its end, as often as the reader asks within the window, and says how it ended."""
    rig = Rig()
    last = await rig.broken_off()
    rig.engines[0].make(2)
    rig.engines[0].finish()
    await eventually(lambda: rig.receipts)
    for _ in range(2):
        again = await rig.get(last).run()
        assert again.status == 200
        assert texts(again) == ["token4 ", "token5 "]
        assert eos(again)["cause"] == "COMPLETED"
    (receipt,) = rig.receipts
    assert receipt.client_left_early


async def test_a_stream_that_failed_meanwhile() -> None:
    """The failure is told in `eos`, not as a status: the answer had begun."""

    async def failing() -> AsyncIterator[str]:
        yield "a"
        await gate.wait()
        raise RuntimeError("provider")

    gate, resume = asyncio.Event(), Resume()
    app = StreamGuardMiddleware(GuardedResponse(failing(), resume=resume))
    async with Server(app) as server:
        await server.events_sent(1)
        server.leave()
        await server.ended()
    gate.set()
    again = await Server(app, headers=[(b"last-event-id", ids(server)[-1].encode())]).run()
    assert (again.status, texts(again)) == (200, [])
    assert (eos(again)["cause"], eos(again)["error"]) == ("PRODUCER_ERROR", "The model failed.")


async def test_who_has_everything_is_told_to_stop_asking() -> None:
    """An EventSource reconnects after the end, too; 204 is what keeps it from doing so for ever."""
    rig = Rig()
    async with rig.get() as server:
        await server.events_sent(3)
        rig.engines[0].finish()
        await server.ended()
    assert ids(server)[-1].endswith(":end")
    again = await rig.get(ids(server)[-1]).run()
    assert (again.status, again.text, len(rig.engines)) == (204, "", 1)


async def test_the_newest_connection_has_the_stream() -> None:
    """The old one is ended, also when its `send` is stuck, and its request's end does not touch the stream."""
    rig = Rig()
    async with rig.get() as old:
        await old.events_sent(3)
        old.stall()
        rig.engines[0].make(1)
        await eventually(lambda: old.senders)
        async with rig.get(ids(old)[2]) as new:
            await new.events_sent(2)
            old.leave()
            await old.ended()
            await asyncio.sleep(0)
            rig.engines[0].make(1)
            rig.engines[0].finish()
            await new.ended()
    assert texts(new) == ["token3 ", "token4 ", "token5 "]
    assert [receipt.cause for receipt in rig.receipts] == [Cause.COMPLETED]


async def test_the_old_connection_is_told() -> None:
    """One that is still read learns that it was superseded, and not to come back."""
    rig = Rig()
    async with rig.get() as old:
        await old.events_sent(3)
        async with rig.get(ids(old)[-1]) as new:
            await old.ended()
            assert old.complete
            assert old.events[-1] == ("superseded", "{}")
            assert ids(old)[-1].endswith(":end")
            rig.engines[0].finish()
            await new.ended()
    assert eos(new)["committed"] == 3


async def test_many_connections_at_once() -> None:
    """Whoever comes last has the stream, and it alone."""
    rig = Rig()
    last = await rig.broken_off()
    readers = [rig.get(last) for _ in range(5)]
    for reader in readers:
        await reader.__aenter__()
    await eventually(
        lambda: sum(bool(reader.sent) and not reader.complete for reader in readers) == 1
    )
    rig.engines[0].make(1)
    rig.engines[0].finish()
    for reader in readers:
        await reader.ended()
        await reader.__aexit__()
    assert [texts(reader) for reader in readers if texts(reader)] == [["token4 "]]
    for reader in readers:
        busy = reader.status == 409 and json.loads(reader.text)["error"] == "busy"
        assert busy or reader.events[-1][0] in ("superseded", "eos"), reader.sent
