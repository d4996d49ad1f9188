"""A resumable endpoint of some adapter, over engines, and readers who lose their connection and come back."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from streamguard_core import Receipt

from ..asgi.driver import Engine, Server, Wire  # noqa: TID252 - one server for all adapters


class ResumingRig:
    """Streams at `/` and at `/other`, their addresses below `/streams`, and what became of them.

    An adapter's own rig sets `app`, whose endpoint streams what `stream()` returns.
    """

    def __init__(self) -> None:
        self.app: Any = None
        self.engines: list[Engine] = []
        self.receipts: list[Receipt] = []
        self.tokens = 3

    def stream(self) -> Any:
        """The producer of the next stream."""
        self.engines.append(Engine(self.tokens))
        return self.engines[-1].stream()

    def get(self, last_id: object = None, path: str = "/", **headers: str) -> Server:
        """A request of a reader."""
        if last_id is not None:
            headers["last_event_id"] = str(last_id)
        return Server(self.app, path, headers=wire(headers))

    async def post(self, path: str, **headers: str) -> tuple[int, Any]:
        """What a request to an address of the streams is answered with."""
        server = await Server(self.app, path, method="POST", headers=wire(headers)).run()
        return server.status, json.loads(server.text) if server.text.startswith("{") else None

    async def broken_off(self, tokens: int = 3, **headers: str) -> str:
        """Read so many tokens and lose the connection; the last id."""
        async with self.get(**headers) as server:
            await server.events_sent(tokens)
            server.leave()
            await server.ended()
        return ids(server.text)[-1]


OpenRig = Callable[..., AbstractContextManager[ResumingRig]]
"""Opens a rig of the adapter; keywords are the bounds of what is kept (`window`, `owner`, ...)."""


def wire(headers: dict[str, str]) -> Wire:
    """Headers that were written as keywords."""
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]


def ids(text: str) -> list[str]:
    """The ids that were sent."""
    return [line[4:] for line in text.split("\n") if line.startswith("id: ")]


def tokens(text: str) -> list[str]:
    """The tokens that were sent."""
    return [line[6:] for line in text.split("\n") if line.startswith("data: token")]


def name_in(last_id: str) -> str:
    """The stream and its process, without the offset: what its addresses are made of."""
    return last_id.rpartition(":")[0]


def moved(last_id: str, offset: object) -> str:
    """Another point of the same stream."""
    return f"{name_in(last_id)}:{offset}"
