"""What a routed stream's attempts say together, and the bounds that hold for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from streamguard_core import AnyChunk, Report, StreamSession, TruncatedStream, Usage, grace
from streamguard_core.testing import run
from streamguard_providers import Retries, Route, Router
from streamguard_providers.errors import provider_error
from streamguard_testing import Fault, LoopbackEngine

from .routers import PROMPT, Provider, Script, router_over, told


def saying(name: str, usage: Usage, *, wait: float = 0.0, error: Exception | None = None) -> Any:
    """A factory of producers that tell their name and usage, and then answer or fail."""

    async def play(report: Report) -> AsyncIterator[list[AnyChunk]]:
        report.identify(model=name, request_id=name)
        report.finish(None, usage)
        await asyncio.sleep(wait)
        if error is not None:
            raise error
        yield [name]
        report.finish("stop", usage)

    return lambda model, **options: Script(play)


def used(tokens: int) -> Usage:
    """A usage of so many tokens."""
    return Usage.reported_by_provider(input=tokens, output=tokens)


async def test_the_usage_is_that_of_all_attempts() -> None:
    """A call that failed and had a price is part of what the stream has used."""
    failed = saying("a", used(3), error=provider_error("p", status=401))
    router = Router({"chat": [Route(failed, "m"), Route(saying("b", used(4)), "m")]}, retries=0)
    _, receipt = await told(router.producer("chat", prompt=PROMPT))
    assert [each.usage for each in receipt.attempts] == [used(3), used(4)]
    assert (receipt.usage.input.value, receipt.usage.output.value) == (7, 7)


def test_what_a_slower_one_said_is_not_the_streams() -> None:
    """Names and finish of an attempt that never leads the stream do not reach its receipt."""

    async def main() -> None:
        routes = [
            Route(saying("quick", used(1), wait=2.0), "m"),
            Route(saying("slow", used(1), wait=9.0), "m"),
        ]
        router = Router({"chat": routes}, hedge_after=1.0)
        text, receipt = await told(router.producer("chat", prompt=PROMPT))
        assert text == "quick"
        assert (receipt.model, receipt.request_id) == ("quick", "quick")

    run(main())


def test_no_hedge_for_a_reader_who_left() -> None:
    """While a slow call is kept alive under `grace` for a reader who left, no second one joins it."""

    async def main() -> None:
        slow, other = Provider([lambda: asyncio.sleep(9.0), "a"]), Provider(["b"])
        router = Router({"chat": [Route(slow.make, "m"), Route(other.make, "m")]}, hedge_after=5.0)
        session = StreamSession(router.producer("chat", prompt=PROMPT), on_disconnect=grace(60.0))
        session.start()
        await asyncio.sleep(1.0)
        session.disconnected()
        await asyncio.sleep(20.0)
        await session.shutdown()
        assert (len(slow.calls), other.calls) == (1, [])

    run(main())


def test_a_hedge_keeps_the_pace() -> None:
    """A hedge is a call of its route's, which the next one keeps its distance from."""

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        refused = provider_error("p", status=429, retry_after=0.0)
        slow, paced = (
            Provider([lambda: asyncio.sleep(9.0), "a"]),
            Provider([refused], [refused], ["b"]),
        )
        paced.clock = clock
        routes = [Route(slow.make, "m"), Route(paced.make, "m")]
        router = Router({"chat": routes, "paced": routes[1]}, clock=clock, hedge_after=1.0)
        for _ in range(3):
            await told(router.producer("chat", prompt=PROMPT))
        hedged = paced.calls[-1]
        await told(router.producer("paced", prompt=PROMPT))
        assert hedged < paced.calls[-1]

    run(main())


async def test_calls_are_bounded() -> None:
    """However many retries are allowed, a stream makes no more calls than it may."""
    dead = Provider([provider_error("p", status=503)])
    router = Router(
        {"chat": [Route(dead.make, "m"), Route(dead.make, "m")]},
        retries=Retries(most=9, random=lambda: 0.0),
        calls=4,
    )
    _, receipt = await told(router.producer("chat", prompt=PROMPT))
    assert len(dead.calls) == len(receipt.attempts) == 4


async def test_what_a_broken_call_did_not_report_is_not_zero() -> None:
    """A call that failed after 17 chunks, without a word of its usage, leaves the sum a lower bound (G12)."""
    async with (
        LoopbackEngine(answer_tokens=60, fault=Fault(error_after=17)) as first,
        LoopbackEngine(answer_tokens=60) as second,
    ):
        router = router_over(first, second, when_broken="resume")
        _, receipt = await told(router.producer("chat", prompt=PROMPT))
    assert [each.usage is None for each in receipt.attempts] == [True, False]
    assert (receipt.usage.output.value, receipt.usage.output.lower) == (None, 43)
    assert receipt.output.lower == 43


async def test_a_later_call_that_reports_nothing() -> None:
    """What the first one reported before it broke off is the least that was spent, not all of it (G12)."""

    class Going(Script):
        continues = True

        def resumed(self, prefix: str) -> Going:
            return self

    async def breaks(report: Report) -> AsyncIterator[list[AnyChunk]]:
        yield ["a"]
        report.finish(None, Usage.reported_by_provider(input=3, output=4, final=False))
        raise TruncatedStream("ended")

    async def silent(report: Report) -> AsyncIterator[list[AnyChunk]]:
        yield ["b"]

    routes = [
        Route(lambda model, play=play, **options: Going(play), "m", name=play.__name__)
        for play in (breaks, silent)
    ]
    router = Router({"chat": routes}, retries=0, when_broken="resume")
    text, receipt = await told(router.producer("chat", prompt=PROMPT))
    assert text == "ab"
    assert (receipt.usage.output.value, receipt.usage.output.lower) == (None, 4)
