"""A small chat: streams answers, stops when the reader does, and shows a receipt for each.

    python main.py [--port 8000] [--engine URL] [--model NAME] [--ledger DIR] [--window SECONDS]

Without --engine a loopback engine answers: no key, no download. An address that ends in /v1 is
taken to be OpenAI-compatible (the key is read from OPENAI_API_KEY), any other to be Ollama.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal
from weakref import WeakSet

import httpx
import uvicorn
from fastapi import APIRouter, FastAPI, HTTPException, Request
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.staticfiles import StaticFiles

from streamguard_asgi import Resume, StreamGuardMiddleware, guard_stream
from streamguard_core import Deadlines, Ledger, Receipt, StreamSession
from streamguard_core.totals import Sum
from streamguard_ledger import SQLiteLedger, read_receipt, read_receipts
from streamguard_providers import OllamaProducer, OpenAIProducer
from streamguard_testing import run_engine

HERE = Path(__file__).resolve().parent
MAX_TOKENS = 400
WINDOW = 10.0
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


class Statistics:
    """Counts streams. Unknown is never zero: a sum says how many numbers it lacks."""

    def __init__(self) -> None:
        self._running: WeakSet[StreamSession] = WeakSet()
        self._ended: Counter[str] = Counter()
        self._output = Sum()
        self._prevented = Sum()

    def began(self, session: StreamSession) -> None:
        """A stream runs from now on."""
        self._running.add(session)

    def ended(self, receipt: Receipt) -> None:
        """A stream has ended."""
        self._ended[str(receipt.category)] += 1
        self._output.add(receipt.output.value)
        self._prevented.add(receipt.prevented.upper)

    def now(self) -> dict[str, Any]:
        """The figures, for the page."""
        running = [session for session in self._running if session.sealed is None]
        return {
            "running": len(running),
            "chunks": sum(session.statistics().produced for session in running),
            "ended": dict(self._ended),
            "output": str(self._output),
            "prevented": str(self._prevented),
        }


def make_app(engine: Engine, ledger: Ledger, ledger_path: Path, window: float = WINDOW) -> FastAPI:
    """The application.

    Args:
        engine: who answers.
        ledger: where every stream is recorded, before it costs anything and after.
        ledger_path: the ledger's folder, for reading it.
        window: how long an answer waits for its reader to come back, in seconds.
    """
    app = FastAPI(title="StreamGuard chat")
    statistics = Statistics()
    resume = Resume(window=window)

    @app.post("/chat")
    @guard_stream(
        model=engine.model,
        max_tokens=MAX_TOKENS,
        tags={"route": "chat"},
        deadlines=Deadlines(connect=10, first_token=120, idle=60),
        consumer_stall=30,
        resume=resume,
    )
    async def chat(conversation: Conversation, request: Request) -> Producer:
        statistics.began(request.state.streamguard.sessions[0])
        return engine.ask([message.model_dump() for message in conversation.messages])

    # Stop was pressed: that is authority. A reader who leaves is intent, and needs no request.
    app.mount("/streams", resume)

    @app.get("/statistics")
    def counted() -> dict[str, Any]:
        """What runs now, and what has ended since the server started."""
        return statistics.now()

    @app.get("/engine")
    def who_answers() -> Engine:
        """Who answers."""
        return engine

    app.include_router(receipts_in(ledger_path))
    app.mount("/", StaticFiles(directory=HERE / "page", html=True))

    # A page on another site must not be able to spend our tokens by a name that resolves to us.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    app.add_middleware(StreamGuardMiddleware, ledger=ledger, on_receipt=statistics.ended)
    return app


def receipts_in(ledger_path: Path) -> APIRouter:
    """What the page asks of the ledger: the latest receipts, or one."""
    routes = APIRouter(prefix="/receipts")

    @routes.get("")
    def receipts() -> list[dict[str, Any]]:
        """The latest receipts, newest first."""
        newest_first = sorted(read_receipts(ledger_path), key=_opened, reverse=True)
        return newest_first[:SHOWN]

    @routes.get("/{stream_id}")
    def receipt(stream_id: str) -> dict[str, Any]:
        """One receipt; `sealed` is false as long as the stream is open."""
        found = read_receipt(ledger_path, stream_id)
        if found is None:
            raise HTTPException(404, "no such stream")
        return found

    return routes


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


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="A small chat whose streams are governed.")
    parser.add_argument(
        "--port", type=int, default=8000, help="port on 127.0.0.1; 0 for a free one"
    )
    parser.add_argument("--engine", metavar="URL", help="Ollama, or an OpenAI-compatible .../v1")
    parser.add_argument("--model", metavar="NAME", help="the engine's first one by default")
    parser.add_argument(
        "--window",
        type=float,
        default=WINDOW,
        metavar="SECONDS",
        help=f"how long an answer waits for a reader whose connection broke ({WINDOW:g})",
    )
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
        app = make_app(engine, ledger, asked.ledger, asked.window)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
        print(f"The chat is at http://127.0.0.1:{listener.getsockname()[1]}")
        print(f"Answers come from {engine.name} ({engine.model}); receipts go to {asked.ledger}")
        print("Ctrl-C ends it.", flush=True)
        # uvicorn raises the signal again when it has shut down: the ledger is to be closed
        # first.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
