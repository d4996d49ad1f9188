"""A small chat: streams answers, stops when the reader does, and shows a receipt for each.

    python main.py [--port 8000] [--engine URL] [--model NAME] [--ledger DIR]

Without --engine a loopback engine answers: no key, no download. An address that ends in /v1 is
taken to be OpenAI-compatible (the key is read from OPENAI_API_KEY), any other to be Ollama.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal
from weakref import WeakValueDictionary

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from streamguard_asgi import StreamGuardMiddleware, guard_stream
from streamguard_core import Deadlines, Ledger, StreamSession
from streamguard_ledger import SQLiteLedger, read_receipts
from streamguard_providers import OllamaProducer, OpenAIProducer
from streamguard_testing import run_engine

HERE = Path(__file__).resolve().parent
MAX_TOKENS = 400
SHOWN = 30
"""Receipts in the list."""


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: Annotated[str, Field(max_length=20_000)]


class Conversation(BaseModel):
    """What the page sends: all turns so far, the reader's last."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=100)]


Producer = OllamaProducer | OpenAIProducer
Ask = Callable[[list[dict[str, Any]]], Producer]


class Engine(BaseModel):
    """Who answers."""

    url: str
    model: str
    name: str

    def ask(self, messages: list[dict[str, Any]]) -> Producer:
        """Prepare one call; it is made when the stream is read, and closed when the reader leaves."""
        if self.url.endswith("/v1"):
            return OpenAIProducer(
                self.model, messages=messages, base_url=self.url, max_tokens=MAX_TOKENS
            )
        return OllamaProducer(
            self.model, messages=messages, base_url=self.url, max_tokens=MAX_TOKENS
        )


def make_app(engine: Engine, ledger: Ledger, ledger_path: Path) -> FastAPI:
    """The application.

    Args:
        engine: who answers.
        ledger: where every stream is recorded, before it costs anything and after.
        ledger_path: the ledger's folder, for reading it.
    """
    app = FastAPI(title="StreamGuard chat")
    running: WeakValueDictionary[str, StreamSession] = WeakValueDictionary()
    app.state.running = running

    @app.post("/chat")
    @guard_stream(
        model=engine.model,
        max_tokens=MAX_TOKENS,
        tags={"route": "chat"},
        deadlines=Deadlines(connect=10, first_token=120, idle=60),
        consumer_stall=30,
    )
    async def chat(conversation: Conversation, request: Request) -> Producer:
        session = request.state.streamguard.sessions[0]
        running[session.stream_id] = session
        return engine.ask([message.model_dump() for message in conversation.messages])

    @app.post("/streams/{stream_id}/stop", status_code=204)
    async def stop(stream_id: str) -> None:
        """Stop was pressed: that is authority. A reader who leaves is intent, and needs no request."""
        session = running.get(stream_id)
        if session is None or session.cause is not None:
            raise HTTPException(404, "no such stream is running")
        session.cancel("stop was pressed")

    @app.get("/receipts")
    def receipts() -> list[dict[str, Any]]:
        """The latest receipts, newest first."""
        newest_first = sorted(read_receipts(ledger_path), key=_opened, reverse=True)
        return newest_first[:SHOWN]

    @app.get("/receipts/{stream_id}")
    def receipt(stream_id: str) -> dict[str, Any]:
        """One receipt; `sealed` is false as long as the stream is open."""
        for found in read_receipts(ledger_path):
            if found["stream_id"] == stream_id:
                return found
        raise HTTPException(404, "no such stream")

    @app.get("/engine")
    def who_answers() -> Engine:
        """Who answers."""
        return engine

    @app.get("/")
    def page() -> FileResponse:
        """The page."""
        return FileResponse(HERE / "page.html", headers={"cache-control": "no-cache"})

    # A page on another site must not be able to spend our tokens by a name that resolves to us.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    app.add_middleware(StreamGuardMiddleware, ledger=ledger)
    return app


def _opened(receipt: dict[str, Any]) -> int:
    opened_us: int = receipt["opened_us"]
    return opened_us


@contextlib.contextmanager
def engine_at(url: str | None, model: str | None) -> Iterator[Engine]:
    """The engine that was asked for, or a loopback engine in a thread of this process."""
    if url is None:
        with run_engine(tokens_per_second=25, first_token_delay=0.8, answer_tokens=160) as loopback:
            yield Engine(url=loopback.url, model=model or "loopback", name="loopback engine")
        return
    url = url.rstrip("/")
    yield Engine(url=url, model=model or first_model(url), name=url)


def first_model(url: str) -> str:
    """The first model that the engine offers."""
    path = "/models" if url.endswith("/v1") else "/api/tags"
    try:
        offered = httpx.get(url + path, timeout=10).raise_for_status().json()
        first = (offered.get("data") or offered.get("models"))[0]
        return str(first.get("id") or first["name"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
        sys.exit(
            f"main.py: {url} was asked for its models and did not name one ({type(error).__name__});"
            " check --engine, or name one with --model"
        )


class Server(uvicorn.Server):
    """Ends the streams that run before it waits for their connections: readers are told why."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop serving."""
        assert isinstance(self.config.app, FastAPI)
        running: list[StreamSession] = list(self.config.app.state.running.values())
        await asyncio.gather(*(session.shutdown() for session in running))
        await super().shutdown(sockets)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="A small chat whose streams are governed.")
    parser.add_argument(
        "--port", type=int, default=8000, help="port on 127.0.0.1; 0 for a free one"
    )
    parser.add_argument("--engine", metavar="URL", help="Ollama, or an OpenAI-compatible .../v1")
    parser.add_argument("--model", metavar="NAME", help="the engine's first one by default")
    parser.add_argument(
        "--ledger", type=Path, default=HERE / "receipts", metavar="DIR", help="folder for receipts"
    )
    return parser.parse_args()


def main() -> None:
    """Serve the chat on 127.0.0.1 until Ctrl-C."""
    asked = parse()
    try:
        listener = socket.create_server(("127.0.0.1", asked.port))
    except (OSError, OverflowError) as error:
        sys.exit(f"main.py: cannot listen on 127.0.0.1:{asked.port} ({error}); try --port 0")
    with (
        listener,
        engine_at(asked.engine, asked.model) as engine,
        SQLiteLedger(asked.ledger) as ledger,
    ):
        app = make_app(engine, ledger, asked.ledger)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        print(f"The chat is at http://127.0.0.1:{listener.getsockname()[1]}")
        print(f"Answers come from {engine.name} ({engine.model}); receipts go to {asked.ledger}")
        print("Ctrl-C ends it.", flush=True)
        # uvicorn raises the signal again when it has shut down: the ledger is to be closed
        # first.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with contextlib.suppress(KeyboardInterrupt):
            Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
