"""An application's lifespan: what the server says goes through it, in order."""

from __future__ import annotations

from typing import Any

import pytest

from streamguard_core import Shutdown
from streamguard_core.lifespan import live

pytestmark = pytest.mark.usefixtures("handlers")


async def test_what_is_not_ours_passes() -> None:
    """A message of a later version of ASGI reaches the application as it is."""
    said = [{"type": f"lifespan.{what}"} for what in ("startup", "reload", "shutdown")]
    heard: list[Any] = []
    answered: list[Any] = []

    async def receive() -> Any:
        return said[len(heard)]

    async def send(message: Any) -> None:
        answered.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while len(heard) < len(said):
            message = await receive()
            heard.append(message)
        await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    await live(app, Shutdown(grace=0), {"type": "lifespan"}, receive, send)
    assert heard == said
    assert [message["type"] for message in answered] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
