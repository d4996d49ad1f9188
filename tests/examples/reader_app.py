"""An application whose streams are read by `reader.js`: run as a script with the port as its argument."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from streamguard_asgi import Acknowledge, Resume, StreamGuardMiddleware, guard_stream
from streamguard_core import Receipt

STALL = 4.0
"""Of `/bounded`: seconds for which a reader may owe a word."""


def make_app() -> Any:
    """Streams of words, which break where their address says so; what became of them at `/receipts`."""
    app = FastAPI()
    acknowledge, resume = Acknowledge(), Resume(window=30, retry=0.05)
    receipts: dict[str, Receipt] = {}
    app.mount("/streams", acknowledge)

    async def words(count: int = 400, pace: float = 0) -> AsyncIterator[str]:
        for number in range(count):
            yield f"{number} "
            await asyncio.sleep(pace)

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return "<title>reader</title><link rel=icon href='data:,'>"

    app.get("/words")(guard_stream(acknowledge=acknowledge)(words))
    bounded = guard_stream(acknowledge=acknowledge, consumer_stall=STALL)
    app.get("/bounded")(bounded(words))
    kept = guard_stream(acknowledge=acknowledge, resume=resume)
    app.get("/kept")(kept(words))

    @app.get("/receipts/{stream_id}")
    def receipt(stream_id: str) -> dict[str, Any]:
        found = receipts.get(stream_id)
        return {} if found is None else {"cause": str(found.cause), "consumed": found.consumed}

    async def tapped(scope: Any, receive: Any, send: Any) -> None:
        """Breaks a connection off after so many sends, if its address says so."""
        wanted = dict(
            part.split("=")
            for part in scope.get("query_string", b"").decode().split("&")
            if "=" in part
        )
        headers = dict(scope.get("headers", ()))
        left = int(wanted.get("break", 0)) if b"last-event-id" not in headers else 0

        async def breaking(message: Any) -> None:
            nonlocal left
            await send(message)
            if left and message["type"] == "http.response.body":
                left -= 1
                if not left:
                    send.__self__.transport.close()

        await guarded(scope, receive, breaking)

    guarded = StreamGuardMiddleware(
        app, on_receipt=lambda receipt: receipts.__setitem__(receipt.stream_id, receipt)
    )
    return tapped


if __name__ == "__main__":
    uvicorn.run(make_app(), port=int(sys.argv[1]), log_level="warning")
