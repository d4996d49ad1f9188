"""Who may not resume under any adapter, and what each is told: another user, another address, an id that is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ..asgi.driver import Server, eos, eventually  # noqa: TID252 - one server for all adapters
from .resuming import OpenRig, ids, moved, name_in, tokens


def by_header(request: Any) -> str:
    """An `owner`."""
    user: str = request.headers["X-User"]
    return user


async def async_by_header(request: Any) -> str:
    """The same, async."""
    return by_header(request)


def refusal(server: Server) -> tuple[int, str]:
    """How a reader was refused."""
    return server.status, json.loads(server.text)["error"]


def _headers(server: Server) -> list[tuple[bytes, bytes]]:
    """As they were sent, with names as ASGI has them."""
    return [(name.lower(), value) for name, value in server.sent[0]["headers"]]


class Refused:
    """For a test file of each adapter to inherit; `open_rig` is a fixture of the adapter's."""

    @pytest.mark.parametrize(
        ("last_id", "status", "error"),
        [
            ("7", 400, "malformed"),
            ("another.{place}:1", 404, "unknown"),
            ("{stream}.0000:1", 421, "elsewhere"),
            ("{stream}.{place}:4", 409, "beyond"),
            ("{stream}.{place}:100000000000000", 409, "beyond"),
        ],
    )
    async def test_a_bad_id_is_refused(
        self, open_rig: OpenRig, last_id: str, status: int, error: str
    ) -> None:
        """Each with its own answer and nothing of any stream; no provider is called, and the stream goes on waiting."""
        with open_rig() as rig:
            last = await rig.broken_off()
            stream, _, place = name_in(last).rpartition(".")
            refused = await rig.get(last_id.format(stream=stream, place=place)).run()
            assert refusal(refused) == (status, error)
            assert (b"cache-control", b"no-store") in _headers(refused)
            assert "token" not in refused.text
            assert len(rig.engines) == 1
            rig.engines[0].finish()
            assert eos(await rig.get(last).run())["cause"] == "COMPLETED"

    @pytest.mark.parametrize("bound", [{"max_chunks": 2}, {"max_bytes": 2 * len("token1 ")}])
    async def test_what_fell_out_of_the_buffer(
        self, open_rig: OpenRig, bound: dict[str, int]
    ) -> None:
        """A reader that missed more than is kept is told so; one that did not goes on."""
        with open_rig(**bound) as rig:
            last = await rig.broken_off()
            assert refusal(await rig.get(moved(last, 0)).run()) == (410, "dropped")
            rig.engines[0].finish()
            assert tokens((await rig.get(moved(last, 1)).run()).text) == ["token2 ", "token3 "]

    async def test_a_refused_reader_ends_nobody(self, open_rig: OpenRig) -> None:
        """A wrong offset does not take the stream from who reads it."""
        with open_rig() as rig:
            async with rig.get() as server:
                await server.events_sent(3)
                refused = await rig.get(moved(ids(server.text)[-1], 9)).run()
                assert refused.status == 409
                rig.engines[0].make(1)
                rig.engines[0].finish()
                await server.ended()
        assert len(tokens(server.text)) == 4

    @pytest.mark.parametrize("owner", [by_header, async_by_header])
    async def test_only_the_owner_may(self, open_rig: OpenRig, owner: Any) -> None:
        """Another user with the right id gets neither the text nor the stop button."""
        with open_rig(owner=owner) as rig:
            last = await rig.broken_off(x_user="ann")
            assert refusal(await rig.get(last, x_user="bob").run()) == (403, "not_yours")
            path = f"/streams/{name_in(last)}/stop"
            assert (await rig.post(path, x_user="bob"))[0] == 403
            assert rig.receipts == []
            rig.engines[0].finish()
            assert eos(await rig.get(last, x_user="ann").run())["cause"] == "COMPLETED"

    async def test_a_stream_belongs_to_its_address(self, open_rig: OpenRig) -> None:
        """An address with weaker rules does not give out what another has opened."""
        with open_rig() as rig:
            last = await rig.broken_off()
            assert refusal(await rig.get(last, "/other").run()) == (403, "not_yours")
            rig.engines[0].finish()
            await eventually(lambda: rig.receipts)
