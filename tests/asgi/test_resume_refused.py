"""Who may not resume: what each is told, another process, and an owner that is none."""

from __future__ import annotations

import os
from typing import Any

import pytest

from streamguard_asgi import Resume
from streamguard_core import UsageError

from ..adapters.refused import Refused, refusal  # noqa: TID252 - the same for all adapters
from .resuming import Rig


class TestRefused(Refused):
    """A guarded endpoint of FastAPI's."""


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
    assert refusal(refused) == (421, "elsewhere")
    assert "sticky" in refused.text
    rig.engines[0].finish()
