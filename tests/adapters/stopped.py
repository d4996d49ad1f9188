"""The addresses of a stream that can be resumed, under every adapter: its stop button, and how it ended."""

from __future__ import annotations

import json

from streamguard_core import Cause
from streamguard_core.replay import ResumePoint

from ..asgi.driver import causes, eos, eventually  # noqa: TID252 - one server for all adapters
from .refused import by_header
from .resuming import OpenRig, name_in


class Stopped:
    """For a test file of each adapter to inherit; `open_rig` is a fixture of the adapter's."""

    async def test_stopping(self, open_rig: OpenRig) -> None:
        """The stop button ends the stream at once, as its reader's wish; a stale wish changes nothing."""
        with open_rig() as rig:
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
            await eventually(lambda: rig.receipts)
        assert rig.engines[0].closed
        assert causes(rig.receipts) == [Cause.USER_CANCEL]

    async def test_a_stale_stop(self, open_rig: OpenRig) -> None:
        """Of a stream that has ended: ignored. Of one that is unknown, or another process's: refused."""
        with open_rig() as rig:
            last = await rig.broken_off()
            rig.engines[0].finish()
            await eventually(lambda: rig.receipts)
            status, said = await rig.post(f"/streams/{name_in(last)}/stop")
            assert (status, said["stopped"], said["cause"]) == (200, False, "COMPLETED")
            status, said = await rig.post("/streams/older/stop")
            assert (status, said["error"]) == (404, "unknown")
            elsewhere = f"/streams/{ResumePoint.parse(last).stream_id}.0/stop"
            assert (await rig.post(elsewhere))[0] == 421
        assert causes(rig.receipts) == [Cause.COMPLETED]

    async def test_stopping_while_the_reader_is_away(self, open_rig: OpenRig) -> None:
        """The wish comes over a connection of its own: nobody needs to read the stream."""
        with open_rig() as rig:
            last = await rig.broken_off()
            assert (await rig.post(f"/streams/{name_in(last)}/stop"))[1]["stopped"]
            await eventually(lambda: rig.receipts)
            assert rig.engines[0].closed
            assert eos(await rig.get(last).run())["cause"] == "USER_CANCEL"

    async def test_how_it_ended(self, open_rig: OpenRig) -> None:
        """Whoever may resume a stream may ask: that it goes on, then how it ended; nobody else is told anything."""
        with open_rig(owner=by_header) as rig:
            last = await rig.broken_off(x_user="ann")
            path = f"/streams/{name_in(last)}/receipt"
            said = json.loads((await rig.get(None, path, x_user="ann").run()).text)
            assert (said["live"], said["committed"], said["end"]) == (True, 3, None)
            rig.engines[0].finish()
            await eventually(lambda: rig.receipts)
            said = json.loads((await rig.get(None, path, x_user="ann").run()).text)
            assert (said["live"], said["end"]["cause"]) == (False, "COMPLETED")
            assert set(said) == {"stream_id", "live", "committed", "consumed", "end"}
            assert (await rig.get(None, path, x_user="bob").run()).status == 403
            older = "/streams/older/receipt"
            assert (await rig.get(None, older, x_user="ann").run()).status == 404
