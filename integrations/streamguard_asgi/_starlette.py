"""The one place where this package imports its framework, with the line that installs it."""

from __future__ import annotations

from streamguard_asgi.supported import INSTALL

try:
    from anyio import CancelScope
    from starlette.background import BackgroundTask
    from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
    from starlette.endpoints import HTTPEndpoint
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route, Router
    from starlette.types import ASGIApp, Message, Receive, Send
    from starlette.types import Scope as ASGIScope
    from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
except ImportError as error:
    raise ImportError(f"streamguard_asgi needs starlette: {INSTALL}") from error

__all__ = [
    "ASGIApp",
    "ASGIScope",
    "BackgroundTask",
    "CancelScope",
    "HTTPEndpoint",
    "Message",
    "Receive",
    "Request",
    "Response",
    "Route",
    "Router",
    "Send",
    "StreamingResponse",
    "WebSocket",
    "WebSocketDisconnect",
    "WebSocketState",
    "iterate_in_threadpool",
    "run_in_threadpool",
]
