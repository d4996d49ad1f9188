"""A resumable endpoint whose readers lose their connection and come back."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI
from msgspec import structs

from streamguard_asgi import Resume, StreamGuardMiddleware, guard_stream
from streamguard_core import Receipt
from streamguard_core.replay import ResumePoint

from .driver import Engine, Server, Wire


class Rig:
    """A resumable endpoint over an engine, and what became of its streams."""

    def __init__(self, resume: Resume | None = None, **options: Any) -> None:
        self.resume = resume or Resume()
        self.engines: list[Engine] = []
        self.receipts: list[Receipt] = []
        self.tokens = 3
        app = FastAPI()
        app.mount("/streams", self.resume)
        for path in ("/", "/other"):
            app.get(path)(guard_stream(resume=self.resume, **options)(self.chat))
        self.app = StreamGuardMiddleware(app, on_receipt=self.receipts.append)

    async def chat(self) -> Any:
        """The endpoint."""
        self.engines.append(Engine(self.tokens))
        return self.engines[-1].stream()

    def get(self, last_id: object = None, path: str = "/", **headers: str) -> Server:
        """A request of a reader."""
        wire = _wire(headers)
        if last_id is not None:
            wire.append((b"last-event-id", str(last_id).encode()))
        return Server(self.app, path, headers=wire)

    async def post(self, path: str, **headers: str) -> tuple[int, Any]:
        """What a request below the mount is answered with."""
        server = await Server(self.app, path, method="POST", headers=_wire(headers)).run()
        return server.status, json.loads(server.text)

    async def broken_off(self, tokens: int = 3, **headers: str) -> str:
        """Read so many tokens and lose the connection; the last id."""
        async with self.get(**headers) as server:
            await server.events_sent(tokens)
            server.leave()
            await server.ended()
        return ids(server)[-1]


def ids(server: Server) -> list[str]:
    """The ids that were sent."""
    return [line[4:] for line in server.text.split("\n") if line.startswith("id: ")]


def texts(server: Server) -> list[str]:
    """The text of each event."""
    return [data for name, data in server.events if name == "message"]


def moved(last_id: str, **changes: Any) -> ResumePoint:
    """Another point than the one a reader was given."""
    return structs.replace(ResumePoint.parse(last_id), **changes)


def _wire(headers: dict[str, str]) -> Wire:
    """Headers that were written as keywords."""
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
