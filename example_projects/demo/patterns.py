"""Four common ways of streaming a model's answer that burn tokens when the reader leaves.

    python patterns.py ENGINE_URL [--guarded] [--ledger DIR] [--model NAME] [--no-gc]
                       [--send-buffer BYTES]

Unguarded, the code is what people write. Guarded, one line is added to each piece: the middleware
to the application, `@guard_stream` to the endpoint, the transport to the client. Nothing inside
them changes.

Serves them with uvicorn on 127.0.0.1, prints the URL, and leaves when its input is closed. Each
route takes `max_tokens`, `words` (length of the prompt), `pad` (bytes of filling per chunk, an SSE
comment: rich metadata, in short) and `call` (a name for the call to the engine, so that it can be
found there).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Annotated, Any

import httpx
import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from streamguard_asgi import StreamGuardMiddleware, guard_stream
from streamguard_core import Ledger, LedgerError
from streamguard_ledger import SQLiteLedger
from streamguard_providers import GuardedAsyncTransport, GuardedTransport

PATTERNS = ("/sync-generator", "/producer-task", "/opened-early", "/behind/base-middleware")
ROUTE = "/v1/chat/completions"
WORD = "bade"
MAX_TOKENS = 400
TLS = ssl.create_default_context()
"""Read once: a client that is made for one call would read all certificates."""
Endpoint = Callable[..., Any]
Guard = Callable[[Endpoint], Endpoint]
# Nothing is kept alive, so an established connection is a stream that runs or waits.
ONE_SHOT = httpx.Limits(max_keepalive_connections=0)


class Ask:
    """What a reader asked for, read from the query."""

    def __init__(
        self, request: Request, max_tokens: int = 400, words: int = 4, pad: int = 0, call: str = ""
    ) -> None:
        self.model = request.app.state.model
        self.max_tokens = max_tokens
        self.words = words
        self.pad = pad
        self.call = call

    def call_arguments(self) -> dict[str, Any]:
        """The request to the engine; the name of the call is for the loopback engine's records."""
        body = {
            "model": self.model,
            "stream": True,
            "max_tokens": self.max_tokens,
            "messages": [{"role": "user", "content": " ".join([WORD] * self.words)}],
        }
        return {"json": body, "headers": {"x-engine-request-id": self.call} if self.call else {}}

    def frame(self, line: str) -> str:
        """One line of the engine as the application sends it."""
        return f"{line}\n:{'-' * self.pad}\n\n" if self.pad else f"{line}\n\n"


Asked = Annotated[Ask, Depends()]


def sync_client(engine: str, guarded: bool) -> httpx.Client:
    """The client of the threaded pattern; guarded: closes at the cutoff, whoever reads.

    Each call has one of its own. Where abandoned calls share a pool, the collector may close one while its
    thread holds the pool's lock, and everything stands still: the demo is to measure, not to hang.
    """
    transport: httpx.BaseTransport = httpx.HTTPTransport(verify=TLS)
    if guarded:
        transport = GuardedTransport(transport)
    return httpx.Client(base_url=engine, transport=transport, timeout=None)


def async_client(engine: str, guarded: bool) -> httpx.AsyncClient:
    """The client of the async patterns; guarded: closes at the cutoff, whoever reads."""
    transport: httpx.AsyncBaseTransport = httpx.AsyncHTTPTransport(limits=ONE_SHOT)
    if guarded:
        transport = GuardedAsyncTransport(transport)
    return httpx.AsyncClient(base_url=engine, transport=transport, timeout=None)


def unguarded(endpoint: Endpoint) -> Endpoint:
    """Stands where `guard_stream` stands in the guarded application."""
    return endpoint


def make_app(
    engine_url: str, guarded: bool, ledger: Ledger | None = None, model: str = "loopback"
) -> FastAPI:
    """The application with all four patterns.

    Args:
        engine_url: The engine's base URL, without `/v1`.
        guarded: Whether StreamGuard governs the streams.
        ledger: Where the guarded application keeps its receipts.
        model: The model to ask for.
    """
    client = async_client(engine_url, guarded)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(lifespan=lifespan)
    app.state.model = model

    def guard(pattern: str) -> Guard:
        tags = {"pattern": pattern}
        if not guarded:
            return unguarded
        return guard_stream(model=model, max_tokens=MAX_TOKENS, tags=tags)

    add_sync_generator(app, partial(sync_client, engine_url, guarded), guard("sync generator"))
    add_producer_task(app, client, guard("producer task"))
    add_opened_early(app, client, guard("opened early"))
    app.mount("/behind", behind_base_middleware(client, guard("base middleware"), model))
    if guarded:
        app.add_middleware(StreamGuardMiddleware, ledger=ledger)
    return app


def add_sync_generator(app: FastAPI, new_client: Callable[[], httpx.Client], guard: Guard) -> None:
    """A plain generator, which the framework runs in its thread pool and never closes."""

    @app.get("/sync-generator")
    @guard
    def endpoint(ask: Asked) -> StreamingResponse:
        def answer() -> Iterator[str]:
            with (
                new_client() as client,
                client.stream("POST", ROUTE, **ask.call_arguments()) as response,
            ):
                for line in filter(None, response.iter_lines()):
                    yield ask.frame(line)

        return StreamingResponse(answer(), media_type="text/event-stream")


def add_producer_task(app: FastAPI, client: httpx.AsyncClient, guard: Guard) -> None:
    """A task that fills a queue, which nobody cancels when the reader of the queue is gone."""
    running: set[asyncio.Task[None]] = set()

    @app.get("/producer-task")
    @guard
    async def endpoint(ask: Asked) -> StreamingResponse:
        queue: asyncio.Queue[str | None] = asyncio.Queue()

        async def produce() -> None:
            with contextlib.suppress(httpx.TransportError):
                async with client.stream("POST", ROUTE, **ask.call_arguments()) as response:
                    async for line in response.aiter_lines():
                        if line:
                            await queue.put(ask.frame(line))
            await queue.put(None)

        async def answer() -> AsyncIterator[str]:
            while (frame := await queue.get()) is not None:
                yield frame

        task = asyncio.create_task(produce())
        running.add(task)
        task.add_done_callback(running.discard)
        return StreamingResponse(answer(), media_type="text/event-stream")


def add_opened_early(app: FastAPI, client: httpx.AsyncClient, guard: Guard) -> None:
    """The stream is opened before the response is returned: until then nobody listens."""

    @app.get("/opened-early")
    @guard
    async def endpoint(ask: Asked) -> StreamingResponse:
        request = client.build_request("POST", ROUTE, **ask.call_arguments())
        reply = await client.send(request, stream=True)

        async def answer() -> AsyncIterator[str]:
            async for line in reply.aiter_lines():
                if line:
                    yield ask.frame(line)

        return StreamingResponse(
            answer(),
            media_type="text/event-stream",
            background=BackgroundTask(reply.aclose),
        )


def behind_base_middleware(client: httpx.AsyncClient, guard: Guard, model: str) -> FastAPI:
    """A careful async generator behind a BaseHTTPMiddleware: dropped, not closed, mid-send."""
    app = FastAPI()
    app.state.model = model

    async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    @app.get("/base-middleware")
    @guard
    async def endpoint(ask: Asked) -> StreamingResponse:
        async def answer() -> AsyncIterator[str]:
            async with client.stream("POST", ROUTE, **ask.call_arguments()) as response:
                async for line in response.aiter_lines():
                    if line:
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


def serve(app: FastAPI, send_buffer: int | None) -> None:
    """Serve an application, say where, and go when the parent closes our input."""
    listener = listen(send_buffer)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    host, port = listener.getsockname()
    print(f"http://{host}:{port}", flush=True)

    def leave_with_parent() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=leave_with_parent, daemon=True).start()
    server.run(sockets=[listener])


def main() -> None:
    """Serve the patterns until the parent closes our input."""
    parser = argparse.ArgumentParser(description="Serve four streaming patterns.")
    parser.add_argument("engine", metavar="ENGINE_URL")
    parser.add_argument("--guarded", action="store_true")
    parser.add_argument("--no-gc", action="store_true", help="disable the cyclic collector")
    parser.add_argument("--send-buffer", type=int, help="kernel bytes per connection")
    parser.add_argument("--ledger", help="folder for the receipts of the guarded application")
    parser.add_argument("--model", default="loopback", help="the model to ask for")
    asked = parser.parse_args()
    if asked.no_gc:
        gc.disable()
    try:
        ledger = SQLiteLedger(asked.ledger) if asked.ledger else None
    except LedgerError as error:
        sys.exit(str(error))
    app = make_app(asked.engine, asked.guarded, ledger, asked.model)
    serve(app, asked.send_buffer)
    if ledger is not None:
        ledger.close()


if __name__ == "__main__":
    main()
