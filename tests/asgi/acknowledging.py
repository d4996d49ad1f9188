"""An endpoint whose readers acknowledge, driven by hand."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from streamguard_asgi import Acknowledge, Resume, StreamGuardMiddleware, guard_stream

from ..adapters.resuming import ResumingRig  # noqa: TID252 - one rig for all adapters
from .driver import Server

ANNOUNCED = "1"


class Rig(ResumingRig):
    """An endpoint that takes acknowledgements, over an engine, and what became of its streams.

    Args:
        acknowledge: takes them.
        resume: keeps the streams, if anything does.
        chat: the endpoint, in place of the one over engines.
        options: of the stream.
    """

    def __init__(
        self,
        acknowledge: Acknowledge | None = None,
        resume: Resume | None = None,
        *,
        chat: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.acknowledge = acknowledge or Acknowledge()
        app = FastAPI()
        app.mount("/streams", self.acknowledge)
        if resume is not None:
            options["resume"] = resume
        app.get("/")(guard_stream(acknowledge=self.acknowledge, **options)(chat or self.chat))
        self.app = StreamGuardMiddleware(app, on_receipt=self.receipts.append)

    async def chat(self) -> Any:
        """The endpoint."""
        return self.stream()

    def get(
        self,
        last_id: object = None,
        path: str = "/",
        *,
        announced: str | None = ANNOUNCED,
        **headers: str,
    ) -> Server:
        """A request of a reader, which says that it acknowledges unless it is told not to."""
        if announced is not None:
            headers["streamguard_acknowledge"] = announced
        return super().get(last_id, path, **headers)

    async def acknowledged(self, server: Server, offset: object, **headers: str) -> tuple[int, Any]:
        """Acknowledge what a reader got; the status, and what was said."""
        return await self.post(f"/streams/{name_of(server)}/acknowledged/{offset}", **headers)


def name_of(server: Server) -> str:
    """The stream's id, as its response says."""
    return server.headers["streamguard-stream-id"]
