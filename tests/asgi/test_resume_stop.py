"""The stop endpoint beside a stream that can be resumed: at once, and never the wrong stream."""

from __future__ import annotations

import json

from streamguard_asgi import Resume
from streamguard_core import Cause
from streamguard_core.replay import ResumePoint

from .driver import eos, eventually
from .resuming import Rig


async def test_stopping() -> None:
    """The stop button ends the stream as its reader's wish; stale wishes say what has become of it."""
    rig = Rig()
    async with rig.get() as server:
        await server.events_sent(3)
        path = f"/streams/{server.headers['streamguard-stream-id']}/stop"
        status, said = await rig.post(path)
        assert (status, said["stopped"], said["cause"]) == (200, True, "USER_CANCEL")
        await server.ended()
    assert eos(server)["cause"] == "USER_CANCEL"
    assert "error" not in eos(server)
    status, said = await rig.post(path)
    assert (status, said["stopped"], said["cause"]) == (200, False, "USER_CANCEL")
    assert [receipt.cause for receipt in rig.receipts] == [Cause.USER_CANCEL]


async def test_how_it_ended() -> None:
    """Whoever may resume a stream may ask: that it goes on, then how it ended; nobody else is told anything."""
    rig = Rig(Resume(owner=lambda request: request.headers["x-user"]))
    last = await rig.broken_off(x_user="ann")
    path = f"/streams/{last.rpartition(':')[0]}/receipt"
    said = json.loads((await rig.get(None, path, x_user="ann").run()).text)
    assert (said["live"], said["committed"], said["end"]) == (True, 3, None)
    rig.engines[0].finish()
    await eventually(lambda: rig.receipts)
    said = json.loads((await rig.get(None, path, x_user="ann").run()).text)
    assert (said["live"], said["end"]["cause"]) == (False, "COMPLETED")
    assert (await rig.get(None, path, x_user="bob").run()).status == 403
    assert (await rig.get(None, "/streams/older/receipt", x_user="ann").run()).status == 404


async def test_a_stale_stop() -> None:
    """Of a stream that has ended: ignored. Of one that is unknown, or another process's: refused."""
    rig = Rig()
    last = await rig.broken_off()
    rig.engines[0].finish()
    await eventually(lambda: rig.receipts)
    name = last.rpartition(":")[0]
    status, said = await rig.post(f"/streams/{name}/stop")
    assert (status, said["stopped"], said["cause"]) == (200, False, "COMPLETED")
    assert (await rig.post("/streams/older/stop"))[1]["error"] == "unknown"
    assert (await rig.post(f"/streams/{ResumePoint.parse(last).stream_id}.0/stop"))[0] == 421
    assert [receipt.cause for receipt in rig.receipts] == [Cause.COMPLETED]


async def test_stopping_while_the_reader_is_away() -> None:
    """The wish comes over a connection of its own: nobody needs to read the stream."""
    rig = Rig()
    last = await rig.broken_off()
    assert (await rig.post(f"/streams/{last.rpartition(':')[0]}/stop"))[1]["stopped"]
    await eventually(lambda: rig.receipts)
    assert rig.engines[0].closed
    assert eos(await rig.get(last).run())["cause"] == "USER_CANCEL"
