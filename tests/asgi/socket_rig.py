"""A FastAPI application with one WebSocket route, and what became of its streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.websockets import WebSocket

from streamguard_asgi import StreamGuardMiddleware, stream_websocket
from streamguard_core import Receipt

from .socket_driver import After, Socket


class Rig:
    """A FastAPI application with one WebSocket route under the middleware, and its receipts."""

    def __init__(self, handler: Callable[[WebSocket], Any], **options: Any) -> None:
        self.receipts: list[Receipt] = []
        self.app = FastAPI()
        self.app.add_middleware(StreamGuardMiddleware, on_receipt=self.receipts.append, **options)
        self.app.websocket("/")(handler)

    def socket(self, after: After = "silent") -> Socket:
        """One connection to it."""
        return Socket(self.app, after)


def streaming(make: Callable[[], Any], **options: Any) -> Callable[[WebSocket], Any]:
    """A handler that sends one stream."""

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await stream_websocket(websocket, make(), **options)

    return handler
