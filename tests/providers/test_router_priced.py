"""Failover over two engines in money: the reader sees one text, the receipt prices both attempts."""

from __future__ import annotations

from streamguard_core import Cause, StreamSession
from streamguard_ledger import PriceBook
from streamguard_providers import OpenAIProducer, Route, Router
from streamguard_testing import Fault, LoopbackEngine

UNITS = {"input": "1", "output": "2"}
BOOK = PriceBook(
    {
        "name": "own",
        "version": "1",
        "currency": "USD",
        "prices": [
            {"provider": "first", "model": "small", **UNITS},
            {"provider": "second", "model": "small", **UNITS},
        ],
    }
)


def _route(engine: LoopbackEngine, provider: str) -> Route:
    return Route(
        OpenAIProducer,
        "small",
        key="sk-own",
        base_url=engine.openai_url,
        provider=provider,
        continues="assistant",
        continuous_usage=True,
    )


async def test_one_text_and_two_priced_attempts() -> None:
    """The first engine dies after 12 of 40 tokens; each attempt costs what its own engine counted."""
    broken = Fault(cut_after=12)
    async with (
        LoopbackEngine(answer_tokens=40, fault=broken) as first,
        LoopbackEngine(answer_tokens=40) as second,
    ):
        router = Router(
            routes={"chat": [_route(first, "first"), _route(second, "second")]},
            when_broken=("resume",),
        )
        async with StreamSession(router.producer("chat", prompt="Go on."), prices=BOOK) as session:
            text = "".join([str(chunk) async for chunk in session])
        receipt = await session.receipt()
        whole = OpenAIProducer("small", prompt="Go on.", base_url=second.openai_url)
        async with StreamSession(whole) as undisturbed:
            assert text == "".join([str(chunk) async for chunk in undisturbed])
        asked = [engine.requests[0] for engine in (first, second)]
    assert receipt.cause is Cause.COMPLETED
    assert [request.generated for request in asked] == [12, 28]
    prices = [attempt.price for attempt in receipt.attempts]
    micros = [request.prompt_tokens + 2 * request.generated for request in asked]
    assert [price and price.total for price in prices] == [
        f"{number / 1_000_000:.12f}" for number in micros
    ]
    assert receipt.price is not None
    assert receipt.price.total == f"{sum(micros) / 1_000_000:.12f}"
    # What the first one generated and did not get told any more is unknown: a lower bound.
    assert (receipt.price.lower, receipt.price.upper) == (receipt.price.total, None)
