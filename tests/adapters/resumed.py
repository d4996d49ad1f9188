"""What a resumable endpoint does under every adapter: what was missed is sent again, over the newest connection."""

from __future__ import annotations

import asyncio
import json

import pytest

from streamguard_core import Cause
from streamguard_core.replay import ResumePoint

from ..asgi.driver import BOUND, causes, eos, eventually  # noqa: TID252 - one server for all adapters
from .resuming import OpenRig, ids, moved, tokens


class Resumed:
    """For a test file of each adapter to inherit; `open_rig` is a fixture of the adapter's."""

    @pytest.mark.parametrize("offset", [0, 1, 2, 3])
    async def test_what_was_missed_is_sent_again(self, open_rig: OpenRig, offset: int) -> None:
        """From whatever event the reader got last: no gap, no repeat, the same ids, one engine call, one receipt."""
        with open_rig() as rig:
            last = await rig.broken_off()
            rig.engines[0].make(2)
            async with rig.get(moved(last, offset)) as again:
                await again.events_sent(5 - offset)
                rig.engines[0].finish()
                await again.ended()
            await eventually(lambda: rig.receipts)
        assert tokens(again.text) == [f"token{number} " for number in range(offset + 1, 6)]
        # The first bytes say where it goes on, for a reader that loses this connection as well.
        points = [*range(offset, 6), "end"]
        assert ids(again.text) == [moved(last, point) for point in points]
        assert again.headers["streamguard-stream-id"] == ResumePoint.parse(last).stream_id
        assert eos(again)["cause"] == "COMPLETED"
        assert [(one.cause, one.consumed) for one in rig.receipts] == [(Cause.COMPLETED, 5)]
        assert len(rig.engines) == 1

    async def test_the_first_bytes_say_where_to_resume(self, open_rig: OpenRig) -> None:
        """A reader that loses its connection before the first token does not pay for a second answer."""
        with open_rig(retry=2.5) as rig:
            rig.tokens = 0
            async with rig.get() as server:
                await server.until(lambda: bool(server.bodies))
                server.leave()
                await server.ended()
            assert server.bodies[0].endswith(b":0\nretry: 2500\n\n")
            rig.engines[0].make(1)
            rig.engines[0].finish()
            again = await rig.get(ids(server.text)[-1]).run()
        assert (tokens(again.text), len(rig.engines)) == (["token1 "], 1)

    async def test_a_stream_that_ended_meanwhile(self, open_rig: OpenRig) -> None:
        """It is replayed to its end, as often as the reader asks; who has everything is told to ask no more.

        An EventSource reconnects after the end, too; 204 is what keeps it from doing so for ever.
        """
        with open_rig() as rig:
            last = await rig.broken_off()
            rig.engines[0].make(2)
            rig.engines[0].finish()
            await eventually(lambda: rig.receipts)
            for again in [await rig.get(last).run() for _ in range(2)]:
                assert (again.status, tokens(again.text)) == (200, ["token4 ", "token5 "])
                assert eos(again)["cause"] == "COMPLETED"
                assert ids(again.text)[-1] == moved(last, "end")
            over = await rig.get(moved(last, "end")).run()
            assert (over.status, over.text, len(rig.engines)) == (204, "", 1)
        (receipt,) = rig.receipts
        assert receipt.client_left_early

    async def test_the_newest_connection_has_the_stream(self, open_rig: OpenRig) -> None:
        """The old one, which is still read, learns that it was superseded, and not to come back."""
        with open_rig() as rig:
            async with rig.get() as old:
                await old.events_sent(3)
                async with rig.get(ids(old.text)[2]) as new:
                    await new.events_sent(1)
                    await old.ended()
                    rig.engines[0].make(2)
                    rig.engines[0].finish()
                    await new.ended()
            await eventually(lambda: rig.receipts)
        assert old.complete
        assert old.events[-1] == ("superseded", "{}")
        assert ids(old.text)[-1].endswith(":end")
        assert tokens(new.text) == ["token3 ", "token4 ", "token5 "]
        assert causes(rig.receipts) == [Cause.COMPLETED]

    async def test_an_old_connection_that_is_stuck(self, open_rig: OpenRig) -> None:
        """It is ended although its `send` does not return, and its request's end does not touch the stream."""
        with open_rig() as rig:
            async with rig.get() as old:
                await old.events_sent(3)
                old.stall()
                rig.engines[0].make(1)
                await eventually(lambda: old.senders)
                async with rig.get(ids(old.text)[2]) as new:
                    await new.events_sent(2)
                    old.leave()
                    await old.ended()
                    rig.engines[0].make(2)
                    rig.engines[0].finish()
                    await new.ended()
            await eventually(lambda: rig.receipts)
        assert tokens(new.text) == [f"token{number} " for number in range(3, 7)]
        (receipt,) = rig.receipts
        assert receipt.cause is Cause.COMPLETED
        # That the old connection was closed in the end was not taken for the reader's leaving the new one.
        intents = [signal.cause for signal in receipt.history if signal.intent]
        assert intents == [Cause.CLIENT_DISCONNECT]

    async def test_many_connections_at_once(self, open_rig: OpenRig) -> None:
        """Whoever comes last has the stream, and it alone; the others are told."""
        with open_rig() as rig:
            last = await rig.broken_off()
            readers = [rig.get(last) for _ in range(5)]
            for reader in readers:
                await reader.__aenter__()
            # All have come when all but one were overtaken.
            await eventually(lambda: sum(reader.complete for reader in readers) == 4)
            rig.engines[0].make(1)
            rig.engines[0].finish()
            for reader in readers:
                await reader.ended()
                await reader.__aexit__()
            await eventually(lambda: rig.receipts)
        assert [tokens(reader.text) for reader in readers if tokens(reader.text)] == [["token4 "]]
        for reader in readers:
            busy = reader.status == 409 and json.loads(reader.text)["error"] == "busy"
            assert busy or reader.events[-1][0] in ("superseded", "eos"), reader.sent

    async def test_a_reader_who_comes_back_and_leaves_again(self, open_rig: OpenRig) -> None:
        """The window begins anew with each connection that breaks, whichever request opened the stream."""
        with open_rig() as rig:
            last = await rig.broken_off()
            for number in (4, 5):
                async with rig.get(last) as again:
                    rig.engines[0].make(1)
                    await again.events_sent(1)
                    again.leave()
                    await again.ended()
                last = ids(again.text)[-1]
                assert last.endswith(f":{number}")
            assert not rig.engines[0].closed
            rig.engines[0].finish()
            assert eos(await rig.get(last).run())["committed"] == 5
            await eventually(lambda: rig.receipts)
        assert causes(rig.receipts) == [Cause.COMPLETED]

    async def test_the_window(self, open_rig: OpenRig) -> None:
        """Who does not come back in time ends the stream, and is told so when he comes; nothing is kept of it."""
        with open_rig(window=0.02) as rig:
            last = await rig.broken_off()
            await eventually(lambda: rig.receipts)
            assert rig.engines[0].closed
            async with asyncio.timeout(BOUND):
                while (answer := await rig.get(last).run()).status == 200:
                    pass
            assert (answer.status, '"error":"unknown"' in answer.text) == (404, True)
            assert len(rig.engines) == 1
        (receipt,) = rig.receipts
        assert (receipt.cause, receipt.policy) == (Cause.CLIENT_DISCONNECT, "grace(0.02s)")

    async def test_lines_and_text_are_not_resumed(self, open_rig: OpenRig) -> None:
        """They have no ids: their reader's leaving ends the stream, as at any other endpoint."""
        with open_rig() as rig:
            async with rig.get(accept="application/x-ndjson") as server:
                await server.until(lambda: "token3" in server.text)
                server.leave()
                await server.ended()
            await eventually(lambda: rig.receipts)
        (receipt,) = rig.receipts
        assert (receipt.cause, receipt.policy) == (Cause.CLIENT_DISCONNECT, "cancel")
