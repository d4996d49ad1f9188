"""A resumable endpoint of Starlette's or FastAPI's, whose readers lose their connection and come back."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from streamguard_asgi import Resume, StreamGuardMiddleware, guard_stream

from ..adapters.resuming import ResumingRig  # noqa: TID252 - one rig for all adapters


class Rig(ResumingRig):
    """A guarded endpoint, which is resumable.

    Args:
        resume: keeps the streams.
        options: of the endpoint.
    """

    def __init__(self, resume: Resume | None = None, **options: Any) -> None:
        super().__init__()
        self.resume = resume or Resume()
        app = FastAPI()
        app.mount("/streams", self.resume)
        for path in ("/", "/other"):
            app.get(path)(guard_stream(resume=self.resume, **options)(self.chat))
        self.app = StreamGuardMiddleware(app, on_receipt=self.receipts.append)

    async def chat(self) -> Any:
        """The endpoint."""
        return self.stream()
