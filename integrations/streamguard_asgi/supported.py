"""What this package needs, and with which versions of it it is tested."""

from __future__ import annotations

from typing import Final

#: Oldest versions of the libraries of the extra `asgi` with which this package is tested.
REQUIRES: Final[tuple[str, ...]] = ("starlette>=0.49.1",)

#: What to type when one of them is missing.
INSTALL: Final = 'pip install "streamguard-llm[asgi]"'

#: What is governed, and what it is tested with.
SUPPORTED: Final[dict[str, str]] = {
    "asgi": "3.0, HTTP and WebSocket; spec versions 2.0 to 2.4; on asyncio (uvloop included)",
    "starlette": "routes, HTTPEndpoint, any number of BaseHTTPMiddleware above or below",
    "fastapi": "endpoints that are coroutines, functions, or generators of either kind",
    "uvicorn": "h11 and httptools; WebSockets by websockets-sansio and wsproto",
}
