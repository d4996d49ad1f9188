"""Four common ways of streaming a model's answer that burn tokens when the reader leaves.

    python tests/engine/patterns.py ENGINE_URL [--guarded] [--no-gc] [--send-buffer BYTES]

Serves them with uvicorn on 127.0.0.1, prints the URL, and leaves when its input is closed.
Each route takes `max_tokens`, `words` (length of the prompt) and `pad` (bytes of filling per
chunk, an SSE comment: rich metadata, in short).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import httpx
import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

PATTERNS = ("/sync-generator", "/producer-task", "/opened-early", "/behind/base-middleware")
ROUTE = "/v1/chat/completions"
WORD = "bade"
# Nothing is kept alive, so an established connection is a stream that runs or waits.
ONE_SHOT = httpx.Limits(max_keepalive_connections=0)


class Ask:
    """What a reader asked for, read from the query."""

    def __init__(self, max_tokens: int = 400, words: int = 4, pad: int = 0) -> None:
        self.max_tokens = max_tokens
        self.words = words
        self.pad = pad

    def body(self) -> dict[str, Any]:
        """The request to the engine."""
        return {
            "model": "random",
            "stream": True,
            "max_tokens": self.max_tokens,
            "messages": [{"role": "user", "content": " ".join([WORD] * self.words)}],
        }

    def frame(self, line: str) -> str:
        """One line of the engine as the application sends it."""
        if not line:
            return ""
        return f"{line}\n:{'-' * self.pad}\n\n" if self.pad else f"{line}\n\n"


Asked = Annotated[Ask, Depends()]


def sync_client(engine: str, guarded: bool) -> httpx.Client:
    """The client of the threaded pattern; guarded: closes at the cutoff, whoever reads."""
    transport = httpx.HTTPTransport(limits=ONE_SHOT)
    if guarded:
        raise NotImplementedError("transport = GuardedTransport(transport)")
    return httpx.Client(base_url=engine, transport=transport, timeout=None)


def async_client(engine: str, guarded: bool) -> httpx.AsyncClient:
    """The client of the async patterns; guarded: closes at the cutoff, whoever reads."""
    transport = httpx.AsyncHTTPTransport(limits=ONE_SHOT)
    if guarded:
        raise NotImplementedError("transport = GuardedAsyncTransport(transport)")
    return httpx.AsyncClient(base_url=engine, transport=transport, timeout=None)


def govern(app: FastAPI) -> None:
    """Put the whole application under StreamGuard."""
    raise NotImplementedError("app.add_middleware(StreamGuardMiddleware)")


def make_app(engine_url: str, guarded: bool) -> FastAPI:
    """The application with all four patterns.

    Args:
        engine_url: The engine's base URL, without `/v1`.
        guarded: Whether StreamGuard governs the streams.
    """
    threaded = sync_client(engine_url, guarded)
    client = async_client(engine_url, guarded)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield
        threaded.close()

    app = FastAPI(lifespan=lifespan)
    add_sync_generator(app, threaded)
    add_producer_task(app, client)
    add_opened_early(app, client)
    app.mount("/behind", behind_base_middleware(client))
    if guarded:
        govern(app)
    return app


def add_sync_generator(app: FastAPI, client: httpx.Client) -> None:
    """A plain generator, which the framework runs in its thread pool and never closes."""

    @app.get("/sync-generator")
    def endpoint(ask: Asked) -> StreamingResponse:
        def answer() -> Iterator[str]:
            with client.stream("POST", ROUTE, json=ask.body()) as response:
                for line in response.iter_lines():
                    yield ask.frame(line)

        return StreamingResponse(answer(), media_type="text/event-stream")


def add_producer_task(app: FastAPI, client: httpx.AsyncClient) -> None:
    """A task that fills a queue, which nobody cancels when the reader of the queue is gone."""
    running: set[asyncio.Task[None]] = set()

    @app.get("/producer-task")
    async def endpoint(ask: Asked) -> StreamingResponse:
        queue: asyncio.Queue[str | None] = asyncio.Queue()

        async def produce() -> None:
            async with client.stream("POST", ROUTE, json=ask.body()) as response:
                async for line in response.aiter_lines():
                    await queue.put(ask.frame(line))
            await queue.put(None)

        async def answer() -> AsyncIterator[str]:
            while (frame := await queue.get()) is not None:
                yield frame

        task = asyncio.create_task(produce())
        running.add(task)
        task.add_done_callback(running.discard)
        return StreamingResponse(answer(), media_type="text/event-stream")


def add_opened_early(app: FastAPI, client: httpx.AsyncClient) -> None:
    """The stream is opened before the response is returned: until then nobody listens."""

    @app.get("/opened-early")
    async def endpoint(ask: Asked) -> StreamingResponse:
        request = client.build_request("POST", ROUTE, json=ask.body())
        upstream = await client.send(request, stream=True)

        async def answer() -> AsyncIterator[str]:
            async for line in upstream.aiter_lines():
                yield ask.frame(line)

        return StreamingResponse(
            answer(),
            media_type="text/event-stream",
            background=BackgroundTask(upstream.aclose),
        )


def behind_base_middleware(client: httpx.AsyncClient) -> FastAPI:
    """A careful async generator behind a BaseHTTPMiddleware: dropped, not closed, mid-send."""
    app = FastAPI()

    async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    @app.get("/base-middleware")
    async def endpoint(ask: Asked) -> StreamingResponse:
        async def answer() -> AsyncIterator[str]:
            async with client.stream("POST", ROUTE, json=ask.body()) as response:
                async for line in response.aiter_lines():
                    yield ask.frame(line)

        return StreamingResponse(answer(), media_type="text/event-stream")

    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    return app


def listen(send_buffer: int | None) -> socket.socket:
    """A listening socket on a free port; its connections inherit the size of its buffer."""
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    return listener


def main() -> None:
    """Serve the patterns until the parent closes our input."""
    parser = argparse.ArgumentParser(description="Serve four streaming patterns.")
    parser.add_argument("engine", metavar="ENGINE_URL")
    parser.add_argument("--guarded", action="store_true")
    parser.add_argument("--no-gc", action="store_true", help="disable the cyclic collector")
    parser.add_argument("--send-buffer", type=int, help="kernel bytes per connection")
    asked = parser.parse_args()
    if asked.no_gc:
        gc.disable()
    app = make_app(asked.engine, asked.guarded)
    listener = listen(asked.send_buffer)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    host, port = listener.getsockname()
    print(f"http://{host}:{port}", flush=True)

    def leave_with_parent() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=leave_with_parent, daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
