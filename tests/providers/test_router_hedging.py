"""Hedging: a second call beside a slow one; the slower is let go, and booked."""

from __future__ import annotations

import asyncio

import pytest

from streamguard_core import AttemptOutcome
from streamguard_core.testing import run
from streamguard_providers import BreakerState, Route, Router
from streamguard_providers.errors import provider_error
from streamguard_testing import Fault, LoopbackEngine

from .routers import PROMPT, Provider, attempts, router_over, told, undisturbed


async def test_the_slower_one_is_let_go_and_booked() -> None:
    """A call without a first token is joined by a second; the winner's text is read, the loser's call closed."""
    async with (
        LoopbackEngine(answer_tokens=30, fault=Fault(first_token_delay=60.0)) as first,
        LoopbackEngine(answer_tokens=30) as second,
        LoopbackEngine() as third,
    ):
        router = router_over(first, second, third, hedge_after=0.02)
        text, receipt = await told(router.producer("chat", prompt=PROMPT))
        assert text == await undisturbed(second)
        await first.wait_idle()
        assert (first.requests[0].generated, first.requests[0].left_by is not None) == (0, True)
        assert [len(each.requests) for each in (first, second, third)] == [1, 1, 0]
        assert {each.state for each in router.health()} == {BreakerState.CLOSED}
    assert receipt.completed
    assert attempts(receipt) == [("a", "first", "cut"), ("b", "hedge", "completed")]
    assert receipt.attempts[0].cut
    assert receipt.provider == "b"
    assert receipt.usage.output.lower == 30


def timed(first: Provider, second: Provider, **options: float) -> Router:
    """A router over two providers without servers, in virtual time."""
    clock = asyncio.get_running_loop().time
    first.clock = second.clock = clock
    routes = [Route(first.make, "m", provider="a"), Route(second.make, "m", provider="b")]
    return Router({"chat": routes}, clock=clock, retries=0, **options)  # type: ignore[arg-type]


def seconds(number: float) -> object:
    """A step that takes so long."""
    return lambda: asyncio.sleep(number)


@pytest.mark.parametrize(
    ("one", "other", "text", "expected"),
    [
        # The first is quick enough: nobody else is asked.
        ([seconds(0.9), "a"], ["b"], "a", [("a", "first", "completed")]),
        # The second one is slower still.
        (
            [seconds(2.0), "a"],
            [seconds(5.0), "b"],
            "a",
            [("b", "hedge", "cut"), ("a", "first", "completed")],
        ),
        # The first fails while the second one runs.
        (
            [seconds(2.0), provider_error("p")],
            [seconds(5.0), "b"],
            "b",
            [("a", "first", "failed"), ("b", "hedge", "completed")],
        ),
        # The second fails while the first one runs.
        (
            [seconds(9.0), "a"],
            [provider_error("p")],
            "a",
            [("b", "hedge", "failed"), ("a", "first", "completed")],
        ),
        # Both fail.
        (
            [seconds(2.0), provider_error("p")],
            [seconds(5.0), provider_error("p")],
            "",
            [("a", "first", "failed"), ("b", "hedge", "failed")],
        ),
        # The first fails before there is a second: that is a fallback.
        (
            [provider_error("p")],
            ["b"],
            "b",
            [("a", "first", "failed"), ("b", "fallback", "completed")],
        ),
        # One that ends without a chunk has answered, too.
        ([seconds(2.0)], [seconds(5.0)], "", [("b", "hedge", "cut"), ("a", "first", "completed")]),
    ],
)
def test_whoever_is_first(
    one: list[object], other: list[object], text: str, expected: list[tuple[str, str, str]]
) -> None:
    """The first with a chunk leads the stream; failures and losers are booked as what they were."""

    async def main() -> None:
        providers = Provider(one), Provider(other)
        got, receipt = await told(
            timed(*providers, hedge_after=1.0).producer("chat", prompt=PROMPT)
        )
        assert got == text
        assert attempts(receipt) == expected
        assert [each.ended for each in providers] == [len(each.calls) for each in providers]
        if len(expected) > 1 and expected[1][1] != "fallback":
            assert providers[1].calls == [1.0]

    run(main())


def test_a_hedge_waits_for_nobody() -> None:
    """A route that asks to wait is no hedge; where no other is free, the same route is asked twice."""

    async def main() -> None:
        slow = Provider([seconds(9.0), "a"], ["again"])
        busy = Provider([provider_error("p", status=429, retry_after=20.0)], ["b"])
        router = timed(slow, busy, hedge_after=1.0)
        waiting = Router(
            {"chat": [Route(slow.make, "m", provider="a")]},
            clock=asyncio.get_running_loop().time,
            hedge_after=1.0,
        )
        text, receipt = await told(waiting.producer("chat", prompt=PROMPT))
        assert (text, attempts(receipt)) == (
            "again",
            [("a", "first", "cut"), ("a", "hedge", "completed")],
        )
        only_busy = Provider([seconds(9.0), "a"])
        router = timed(only_busy, busy, hedge_after=1.0)
        await told(router.producer("chat", prompt=PROMPT))
        text, receipt = await told(router.producer("chat", prompt=PROMPT))
        assert busy.calls == [2.0]
        assert [each.provider for each in receipt.attempts] == ["a", "a"]
        assert receipt.attempts[0].outcome is AttemptOutcome.CUT

    run(main())


def test_calls_are_bounded_with_hedges() -> None:
    """A hedge is a call like any other: the bound of a stream's calls holds for it."""

    async def main() -> None:
        first, second = Provider([seconds(9.0), "a"]), Provider(["b"])
        router = timed(first, second, hedge_after=1.0, calls=1)
        assert (await told(router.producer("chat", prompt=PROMPT)))[0] == "a"
        assert second.calls == []

    run(main())
