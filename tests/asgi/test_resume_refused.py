"""Who may not resume, and what each is told: another user, another address, another process, an id that is none."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from streamguard_asgi import Resume
from streamguard_core import UsageError
from streamguard_core.replay import ResumePoint

from .driver import eos
from .resuming import Rig, ids, moved, texts


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"stream_id": "another"}, 404, "unknown"),
        ({"place": "0000"}, 421, "elsewhere"),
        ({"offset": 4}, 409, "beyond"),
        ({"offset": 10**14}, 409, "beyond"),
        (None, 400, "malformed"),
    ],
)
async def test_a_bad_id_is_refused(change: dict[str, Any] | None, status: int, error: str) -> None:
    """Each with its own answer, nothing of any stream, no call to a provider, and the stream goes on waiting."""
    rig = Rig()
    last = await rig.broken_off()
    refused = await rig.get("7" if change is None else moved(last, **change)).run()
    said = json.loads(refused.text)
    assert (refused.status, said["error"]) == (status, error)
    assert "token" not in refused.text
    assert len(rig.engines) == 1
    rig.engines[0].finish()
    assert eos(await rig.get(last).run())["cause"] == "COMPLETED"


async def test_what_fell_out_of_the_buffer() -> None:
    """A reader that missed more than is kept is told so; one that did not goes on."""
    rig = Rig(Resume(max_bytes=len("token1 ") * 2))
    last = await rig.broken_off()
    refused = await rig.get(moved(last, offset=0)).run()
    assert (refused.status, json.loads(refused.text)["error"]) == (410, "dropped")
    rig.engines[0].finish()
    assert texts(await rig.get(moved(last, offset=1)).run()) == ["token2 ", "token3 "]


async def test_a_refused_reader_ends_nobody() -> None:
    """A wrong offset does not take the stream from who reads it."""
    rig = Rig()
    async with rig.get() as server:
        await server.events_sent(3)
        refused = await rig.get(moved(ids(server)[-1], offset=9)).run()
        assert refused.status == 409
        rig.engines[0].make(1)
        rig.engines[0].finish()
        await server.ended()
    assert len(texts(server)) == 4


async def test_only_the_owner_may() -> None:
    """Another user with the right id gets neither the text nor the stop button."""

    async def owner(request: Any) -> str:
        user: str = request.headers["x-user"]
        return user

    rig = Rig(Resume(owner=owner))
    last = await rig.broken_off(x_user="ann")
    refused = await rig.get(last, x_user="bob").run()
    assert (refused.status, json.loads(refused.text)["error"]) == (403, "not_yours")
    path = f"/streams/{ResumePoint.parse(last).stream_id}/stop"
    assert (await rig.post(path, x_user="bob"))[0] == 403
    rig.engines[0].finish()
    assert eos(await rig.get(last, x_user="ann").run())["cause"] == "COMPLETED"


async def test_a_stream_belongs_to_its_address() -> None:
    """An address with weaker rules does not give out what another has opened."""
    rig = Rig()
    last = await rig.broken_off()
    refused = await rig.get(last, "/other").run()
    assert (refused.status, json.loads(refused.text)["error"]) == (403, "not_yours")


@pytest.mark.parametrize("answer", [None, 7])
async def test_an_owner_that_is_no_text(answer: Any) -> None:
    """A function that cannot say whose a request is opens nothing; the stream is closed, with a receipt of its own."""
    rig = Rig(Resume(owner=lambda request: answer))
    server = rig.get()
    with pytest.raises(UsageError, match="owner returned"):
        await server.run()
    assert [receipt.produced for receipt in rig.receipts] == [0]


async def test_another_process_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork has the object and none of the streams: its readers are told to come to the right process."""
    rig = Rig()
    last = await rig.broken_off()
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", lambda: -1)
        refused = await rig.get(last).run()
    assert (refused.status, json.loads(refused.text)["error"]) == (421, "elsewhere")
    assert "sticky" in refused.text
    rig.engines[0].finish()
