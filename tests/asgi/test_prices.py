"""Streams of a request are priced by the endpoint's source, else by the middleware's."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from streamguard_asgi import GuardedResponse, StreamGuardMiddleware, current_scope, guard_stream
from streamguard_core import (
    Attempt,
    MemoryLedger,
    Price,
    Unpriced,
    Usage,
    UsageError,
    from_pico,
)

from .driver import Server

USAGE = Usage.reported_by_provider(input=3, output=4)


class Flat:
    """So many pico-units for any call."""

    def __init__(self, pico: int) -> None:
        self._total = from_pico(pico)

    def price(self, provider: str | None, model: str | None, usage: Usage, at: datetime) -> Price:
        """See `Pricer`."""
        assert usage == USAGE
        return Price(total=self._total, currency="USD")


class Answer:
    """Says one word, and what it cost in tokens."""

    async def run(self, *, out: Any, cancel_event: Any) -> None:
        """See `Producer`."""
        await out("a")
        out.attempt(Attempt(usage=USAGE))


async def answered(request: Request) -> Any:
    """A stream."""
    return Answer()


ENDPOINTS: dict[str, tuple[Any, int | None]] = {
    "decorated": (guard_stream(answered), 1),
    "decorated, its own": (guard_stream(prices=Flat(2))(answered), 2),
    "response": (lambda request: GuardedResponse(Answer()), 1),
    "response, its own": (lambda request: GuardedResponse(Answer(), prices=Flat(2)), 2),
    "decorated, none": (guard_stream(prices=None)(answered), None),
}


@pytest.mark.parametrize("name", ENDPOINTS)
async def test_a_stream_is_priced(name: str) -> None:
    """What the endpoint says wins; None is said, too."""
    endpoint, pico = ENDPOINTS[name]
    ledger = MemoryLedger()
    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(StreamGuardMiddleware, ledger=ledger, prices=Flat(1))
    await Server(app).run()
    (receipt,) = ledger.receipts
    if pico is None:
        assert receipt.price.unpriced is Unpriced.NO_SOURCE
    else:
        assert receipt.price.total == from_pico(pico)


async def test_a_call_outside_of_any_stream_is_priced() -> None:
    """A provider call of a request without a session is a stream of its own; the middleware's source prices it."""
    ledger = MemoryLedger()

    async def call(request: Request) -> Any:
        scope = current_scope()
        assert scope is not None
        stream = scope.new_stream(model="m", provider="p", max_tokens=None)
        stream.start()
        stream.passed(1)
        stream.attempt(Attempt(usage=USAGE))
        stream.ended()
        return GuardedResponse(Answer())

    app = Starlette(routes=[Route("/", call)])
    app.add_middleware(StreamGuardMiddleware, ledger=ledger, prices=Flat(7))
    await Server(app).run()
    assert [receipt.price.total for receipt in ledger.receipts] == [from_pico(7)] * 2


def test_what_is_no_price_source_is_refused() -> None:
    """Where it is given, not when the first stream is sealed."""
    with pytest.raises(UsageError, match="PriceBook"):
        StreamGuardMiddleware(Starlette(), prices="prices.toml")  # type: ignore[arg-type]
