"""An endpoint whose readers acknowledge, driven by hand."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI

from streamguard_asgi import Acknowledge, Resume, StreamGuardMiddleware, guard_stream
from streamguard_core import Receipt

from .driver import Engine, Server, Wire

ANNOUNCED = "1"


class Rig:
    """An endpoint that takes acknowledgements, over an engine, and what became of its streams.

    Args:
        acknowledge: takes them.
        resume: keeps the streams, if anything does.
        chat: the endpoint, in place of the one over engines.
        tokens: how many each engine makes by itself.
        options: of the stream.
    """

    def __init__(
        self,
        acknowledge: Acknowledge | None = None,
        resume: Resume | None = None,
        *,
        chat: Any = None,
        tokens: int = 3,
        **options: Any,
    ) -> None:
        self.acknowledge = acknowledge or Acknowledge()
        self.engines: list[Engine] = []
        self.receipts: list[Receipt] = []
        self.tokens = tokens
        app = FastAPI()
        app.mount("/streams", self.acknowledge)
        if resume is not None:
            options["resume"] = resume
        app.get("/")(guard_stream(acknowledge=self.acknowledge, **options)(chat or self.chat))
        self.app = StreamGuardMiddleware(app, on_receipt=self.receipts.append)

    async def chat(self) -> Any:
        """The endpoint."""
        self.engines.append(Engine(self.tokens))
        return self.engines[-1].stream()

    def get(
        self, last_id: str | None = None, announced: str | None = ANNOUNCED, **headers: str
    ) -> Server:
        """A request of a reader, which says that it acknowledges unless it is told not to."""
        wire: Wire = [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ]
        if announced is not None:
            wire.append((b"streamguard-acknowledge", announced.encode()))
        if last_id is not None:
            wire.append((b"last-event-id", last_id.encode()))
        return Server(self.app, headers=wire)

    async def post(self, path: str, **headers: str) -> tuple[int, Any]:
        """What a request below the mount is answered with."""
        wire: Wire = [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ]
        server = await Server(self.app, f"/streams/{path}", method="POST", headers=wire).run()
        return server.status, json.loads(server.text)

    async def acknowledged(self, server: Server, offset: object, **headers: str) -> tuple[int, Any]:
        """Acknowledge what a reader got; the status, and what was said."""
        return await self.post(f"{name_of(server)}/acknowledged/{offset}", **headers)


def name_of(server: Server) -> str:
    """The stream's id, as its response says."""
    return server.headers["streamguard-stream-id"]
