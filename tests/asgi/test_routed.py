"""The router behind `guard_stream`: an endpoint returns its producer, and readers may leave at any time."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route as Path

from streamguard_asgi import StreamGuardMiddleware, guard_stream
from streamguard_core import Cause, MemoryLedger
from streamguard_providers import OpenAIProducer, Retries, Route, Router
from streamguard_testing import Fault, LoopbackEngine

from .driver import Server


def app_over(*engines: LoopbackEngine) -> tuple[Starlette, MemoryLedger]:
    """An application that answers by the first engine, else by the next."""
    routes = [
        Route(OpenAIProducer, "m", base_url=each.openai_url, provider=name, continues="assistant")
        for each, name in zip(engines, "ab", strict=False)
    ]
    router = Router(
        {"chat": routes}, when_broken="resume", retries=Retries(most=1, random=lambda: 0.0)
    )

    @guard_stream
    async def chat(request: Request) -> Any:
        return router.producer("chat", prompt="Tell me about the river.")

    ledger = MemoryLedger()
    app = Starlette(routes=[Path("/", chat)])
    app.add_middleware(StreamGuardMiddleware, ledger=ledger)
    return app, ledger


async def test_a_provider_dies_in_mid_sentence() -> None:
    """The browser gets the whole answer, the ledger one receipt with both attempts."""
    async with (
        LoopbackEngine(answer_tokens=30, fault=Fault(cut_after=11)) as first,
        LoopbackEngine(answer_tokens=30) as second,
    ):
        app, ledger = app_over(first, second)
        await Server(app).run()
        assert second.requests[0].generated == 19
    (receipt,) = ledger.receipts
    assert receipt.completed
    assert receipt.consumed == 30
    assert [(each.provider, str(each.role)) for each in receipt.attempts] == [
        ("a", "first"),
        ("b", "resume"),
    ]


async def test_the_reader_leaves_while_the_next_route_thinks() -> None:
    """The fallback's connection is closed when the browser is gone, and nobody else is called."""
    async with (
        LoopbackEngine(fault=Fault(status=401)) as first,
        LoopbackEngine(fault=Fault(first_token_delay=60.0)) as second,
    ):
        app, ledger = app_over(first, second)
        async with Server(app) as server:
            await second.wait_until(lambda: len(second.requests) == 1)
            server.leave()
            await second.wait_idle()
        assert (len(first.requests), len(second.requests)) == (1, 1)
        assert second.requests[0].generated == 0
    (receipt,) = ledger.receipts
    assert receipt.cause is Cause.CLIENT_DISCONNECT
    assert [str(each.outcome) for each in receipt.attempts] == ["failed", "cut"]
