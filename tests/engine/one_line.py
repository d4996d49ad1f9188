"""The demo's patterns, and two more, under nothing but `app.add_middleware(StreamGuardMiddleware)`.

    python one_line.py ENGINE_URL [--transport] [--no-gc] [--send-buffer BYTES]

`--transport` gives the clients a guarded transport besides: what nobody cancels (a task that an
endpoint has started) or nobody can interrupt (a thread that blocks) is ended from below.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from streamguard_asgi import StreamGuardMiddleware

sys.path.insert(0, str(Path(__file__).parents[2] / "example_projects" / "demo"))

import patterns
from patterns import ROUTE, Asked


def add_disconnect_check(app: FastAPI, client: httpx.AsyncClient) -> None:
    """A loop that asks before each item whether its reader is still there."""

    @app.get("/disconnect-check")
    async def endpoint(request: Request, ask: Asked) -> StreamingResponse:
        call = client.build_request("POST", ROUTE, **ask.call_arguments())
        reply = await client.send(call, stream=True)

        async def answer() -> AsyncIterator[str]:
            async for line in reply.aiter_lines():
                if await request.is_disconnected():
                    break
                if line:
                    yield ask.frame(line)

        return StreamingResponse(answer(), media_type="text/event-stream")


def add_answer(app: FastAPI, client: httpx.AsyncClient) -> None:
    """An endpoint that waits for the whole answer, which FastAPI never cancels."""

    @app.get("/answer")
    async def endpoint(ask: Asked) -> dict[str, int]:
        reply = await client.post(ROUTE, **ask.call_arguments())
        return {"size": len(reply.content)}


def make_app(engine_url: str, *, transport: bool) -> FastAPI:
    """All patterns as people write them; the last line is ours."""
    threaded = partial(patterns.sync_client, engine_url, transport)
    client = patterns.async_client(engine_url, transport)
    app = FastAPI()
    app.state.model = "loopback"
    patterns.add_sync_generator(app, threaded, patterns.unguarded)
    patterns.add_producer_task(app, client, patterns.unguarded)
    patterns.add_opened_early(app, client, patterns.unguarded)
    add_disconnect_check(app, client)
    add_answer(app, client)
    app.mount("/behind", patterns.behind_base_middleware(client, patterns.unguarded, "loopback"))
    # These clients are httpx's, not a model's SDK: that each request is about a model is said here.
    app.add_middleware(StreamGuardMiddleware, cancel_requests="all")
    return app


def main() -> None:
    """Serve the patterns until the parent closes our input."""
    parser = argparse.ArgumentParser(description="Serve streaming patterns under one line.")
    parser.add_argument("engine", metavar="ENGINE_URL")
    parser.add_argument("--transport", action="store_true", help="guard the clients as well")
    parser.add_argument("--no-gc", action="store_true", help="disable the cyclic collector")
    parser.add_argument("--send-buffer", type=int, help="kernel bytes per connection")
    asked = parser.parse_args()
    if asked.no_gc:
        gc.disable()
    patterns.serve(make_app(asked.engine, transport=asked.transport), asked.send_buffer)


if __name__ == "__main__":
    main()
