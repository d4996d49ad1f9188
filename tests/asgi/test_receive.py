"""The pump: one reader of the server's `receive`, which loses nothing and tells everybody."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamguard_core import UsageError
from streamguard_core.receive import ReceivePump

from .driver import BOUND, Server, eventually

DISCONNECT = {"type": "http.disconnect"}


class Rig:
    """A pump on a server, without an application."""

    def __init__(self, limit: int = 65536, **options: Any) -> None:
        self.server = Server(None, **options)
        self.disconnects = 0
        self.pump = ReceivePump(self.server.receive, self._gone, limit)

    def _gone(self) -> None:
        self.disconnects += 1

    async def body(self) -> bytes:
        """Read as an application does."""
        parts = []
        while True:
            async with asyncio.timeout(BOUND):
                message = await self.pump.receive()
            parts.append(message["body"])
            if not message["more_body"]:
                return b"".join(parts)


async def test_nothing_is_read_before_somebody_asks() -> None:
    """A pump that is not started calls no `receive()` and makes no task."""
    rig = Rig()
    tasks = asyncio.all_tasks()
    await asyncio.sleep(0)
    assert rig.server.receives == 0
    assert asyncio.all_tasks() == tasks
    rig.pump.stop()


async def test_a_body_of_a_megabyte_is_kept_in_order_and_in_bounds() -> None:
    """P7: every message arrives with its `more_body`, and never more than the limit and one are held."""
    parts = [bytes([index % 251]) * 16384 for index in range(64)]
    rig = Rig(body=parts)
    rig.pump.start()
    await eventually(lambda: rig.pump._room)
    assert rig.pump._held <= 65536 + 16384 + 64
    assert await rig.body() == b"".join(parts)
    assert rig.server.most_readers == 1
    rig.pump.stop()


async def test_empty_messages_are_bounded_too() -> None:
    """A body of a million empty parts is not a way to fill the memory."""
    rig = Rig(limit=1000, body=[b""] * 100)
    rig.pump.start()
    await eventually(lambda: rig.pump._room)
    assert 0 < len(rig.pump._messages or ()) < 20
    rig.pump.stop()


async def test_the_disconnect_is_seen_behind_an_unread_body() -> None:
    """The application has not read its body, and still its reader's leaving is known."""
    rig = Rig(body=[b"a", b"b"])
    rig.pump.start()
    rig.server.leave()
    await eventually(lambda: rig.disconnects)
    assert await rig.body() == b"ab"
    assert await rig.pump.receive() == DISCONNECT


async def test_the_disconnect_is_replayed_for_ever() -> None:
    """P5: servers whose second `receive()` waits for ever do not hang the application."""
    rig = Rig(deaf=True)
    await rig.body()
    rig.server.leave()
    async with asyncio.timeout(BOUND):
        assert [await rig.pump.receive() for _ in range(3)] == [DISCONNECT] * 3
    assert rig.disconnects == 1


async def test_everybody_who_waits_is_told() -> None:
    """P3: a second reader inside the application neither steals nor misses the disconnect."""
    rig = Rig()
    await rig.body()
    waiting = [asyncio.ensure_future(rig.pump.receive()) for _ in range(3)]
    await asyncio.sleep(0)
    rig.server.leave()
    async with asyncio.timeout(BOUND):
        assert await asyncio.gather(*waiting) == [DISCONNECT] * 3
    assert rig.server.most_readers == 1


async def test_a_cancelled_reader_does_not_cancel_the_server() -> None:
    """P4: polling with a cancelled `receive()` brings no false disconnect, and loses no message."""
    rig = Rig(touchy=True, body=[b"a"])
    for _ in range(3):
        polling = asyncio.ensure_future(rig.pump.receive())
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await polling
    assert await rig.body() == b"a"
    polling = asyncio.ensure_future(rig.pump.receive())
    await asyncio.sleep(0)
    polling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await polling
    for _ in range(5):
        await asyncio.sleep(0)
    assert not rig.pump.gone
    assert rig.disconnects == 0
    rig.pump.stop()


async def test_an_unread_upload_does_not_hide_the_disconnect_of_a_stream() -> None:
    """P8: once the response streams and nobody has asked for the body, it is read on and dropped."""
    rig = Rig(limit=1000, body=[b"x" * 600] * 50)
    rig.pump.start()
    rig.server.leave()
    await eventually(lambda: rig.pump._room)
    assert rig.disconnects == 0
    rig.pump.response_streams()
    await eventually(lambda: rig.disconnects)
    assert rig.pump._held <= 1000 + 664


async def test_a_body_that_was_dropped_is_not_read_as_if_it_were_whole() -> None:
    """Who asks after all is told what happened and what to do, once what was kept is read."""
    rig = Rig(limit=1000, body=[b"x" * 600] * 50)
    rig.pump.start()
    rig.pump.response_streams()
    await eventually(lambda: rig.pump._lost)
    with pytest.raises(UsageError, match="raise buffer_limit"):
        await rig.body()
    rig.pump.stop()


async def test_a_body_that_is_read_while_the_response_streams_is_kept() -> None:
    """An application that answers while it reads (a transcription, say) gets every byte."""
    rig = Rig(limit=1000, body=[b"x" * 600] * 50)
    assert (await rig.pump.receive())["more_body"]
    rig.pump.response_streams()
    assert len(await rig.body()) == 49 * 600
    rig.pump.stop()


async def test_a_server_that_fails_fails_its_application() -> None:
    """What `receive()` raises reaches whoever asks; it is no disconnect."""

    async def broken() -> Any:
        raise RuntimeError("no")

    told: list[int] = []
    pump = ReceivePump(broken, lambda: told.append(1))
    with pytest.raises(RuntimeError, match="no"):
        await pump.receive()
    assert told == []


async def test_after_the_request_everybody_is_told_to_go() -> None:
    """A task that outlives its request gets a disconnect instead of waiting for ever."""
    rig = Rig()
    await rig.body()
    waiting = asyncio.ensure_future(rig.pump.receive())
    await asyncio.sleep(0)
    rig.pump.stop()
    async with asyncio.timeout(BOUND):
        assert await waiting == DISCONNECT
        assert await rig.pump.receive() == DISCONNECT
    assert rig.disconnects == 0


async def test_who_polls_leaves_nothing_behind() -> None:
    """A wait that was cancelled, as `Request.is_disconnected()` does for each look, is forgotten."""
    never: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def receive() -> Any:
        return await never

    pump = ReceivePump(receive, lambda: None)
    for _ in range(50):
        waiting = asyncio.ensure_future(pump.receive())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert not pump.listened
    waiting = asyncio.ensure_future(pump.receive())
    await asyncio.sleep(0)
    assert pump.listened
    assert len(pump._waiters or ()) == 1
    pump.stop()
    assert (await waiting)["type"] == "http.disconnect"
