"""A small chat: streams answers, stops when the reader does, and shows a receipt for each.

    python main.py [--port 8000] [--engine URL] [--model NAME] [--ledger DIR] [--window SECONDS]

Without --engine a loopback engine answers: no key, no download. An address that ends in /v1 is
taken to be OpenAI-compatible (the key is read from OPENAI_API_KEY), any other to be Ollama.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import APIRouter, FastAPI, HTTPException, Request
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.staticfiles import StaticFiles

from streamguard_asgi import Acknowledge, Resume, StreamGuardMiddleware, guard_stream
from streamguard_core import Deadlines, Ledger
from streamguard_ledger import read_receipt

HERE = Path(__file__).resolve().parent
# The page, and what both chats have in common, stand beside this example.
sys.path.append(str(HERE.parent))

from chat_common.engine import MAX_TOKENS, Engine, Producer, engine_at  # noqa: E402
from chat_common.figures import Statistics, newest_receipts  # noqa: E402
from chat_common.options import WINDOW, ledger_at, listen, options  # noqa: E402

PAGE = HERE.parent / "chat_common" / "page"


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: Annotated[str, Field(max_length=20_000)]


class Conversation(BaseModel):
    """What the page sends: all turns so far, the reader's last."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=100)]


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
    resume, acknowledge = Resume(window=window), Acknowledge()

    @app.post("/chat")
    @guard_stream(
        model=engine.model,
        max_tokens=MAX_TOKENS,
        tags={"route": "chat"},
        deadlines=Deadlines(connect=10, first_token=120, idle=60),
        consumer_stall=30,
        resume=resume,
        acknowledge=acknowledge,
    )
    async def chat(conversation: Conversation, request: Request) -> Producer:
        statistics.began(request.state.streamguard.sessions[0])
        return engine.ask([message.model_dump() for message in conversation.messages])

    # Stop was pressed: that is authority. A reader who leaves is intent, and needs no request. The page's own reader
    # is served here, too, and says what it has got.
    app.mount("/streams", acknowledge)

    @app.get("/statistics")
    def counted() -> dict[str, Any]:
        """What runs now, and what has ended since the server started."""
        return statistics.now()

    @app.get("/engine")
    def who_answers() -> dict[str, Any]:
        """Who answers."""
        return engine.described("FastAPI")

    app.include_router(receipts_in(ledger_path))
    app.mount("/", StaticFiles(directory=PAGE, html=True))

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
        return newest_receipts(ledger_path)

    @routes.get("/{stream_id}")
    def receipt(stream_id: str) -> dict[str, Any]:
        """One receipt; `sealed` is false as long as the stream is open."""
        found = read_receipt(ledger_path, stream_id)
        if found is None:
            raise HTTPException(404, "no such stream")
        return found

    return routes


def main() -> None:
    """Serve the chat on 127.0.0.1 until Ctrl-C."""
    asked = options("A small chat whose streams are governed.", HERE / "receipts").parse_args()
    with (
        listen(asked.port) as listener,
        engine_at(asked.engine, asked.model) as engine,
        ledger_at(asked.ledger) as ledger,
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
