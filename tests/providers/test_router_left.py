"""Readers who leave: in whatever phase a routed stream is, no further call is made for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from streamguard_core import (
    AttemptOutcome,
    Cause,
    Receipt,
    Scope,
    StreamSession,
    drain,
    grace,
    use_scope,
)
from streamguard_core.testing import run, settled
from streamguard_providers import BreakerState, Retries, Route, Router
from streamguard_providers.errors import provider_error
from streamguard_testing import Fault, LoopbackEngine

from .recorder import Recorder
from .routers import PROMPT, Provider, router_over
from .waiting import until


class BackOff:
    """A wait between two tries that lasts for ever, and says when it has begun and how it ended."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled = False

    async def __call__(self, seconds: float) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


LEAVE: dict[str, Callable[[StreamSession], object]] = {
    "disconnected": lambda session: session.disconnected("the browser is gone"),
    "cancel": lambda session: session.cancel("stop was pressed"),
}


async def left(session: StreamSession, ready: Callable[[], Any], leave: Any) -> Receipt:
    """Read a stream; leave once something is so."""

    async def read() -> None:
        async for _ in session:
            pass

    reader = asyncio.ensure_future(read())
    await ready()
    leave(session)
    await asyncio.wait_for(reader, 5.0)
    return await session.receipt()


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE.keys())
async def test_during_back_off(leave: Any) -> None:
    """The cutoff ends the wait before a retry at once; neither this route nor the next is called."""
    wait = BackOff()
    async with LoopbackEngine(fault=Fault(status=503)) as first, LoopbackEngine() as second:
        router = router_over(first, second, retries=Retries(most=3, sleep=wait))
        session = StreamSession(router.producer("chat", prompt=PROMPT))
        receipt = await left(session, wait.begun.wait, leave)
        assert (len(first.requests), len(second.requests)) == (1, 0)
    assert wait.cancelled
    assert receipt.cause in {Cause.CLIENT_DISCONNECT, Cause.USER_CANCEL}
    assert [each.outcome for each in receipt.attempts] == [AttemptOutcome.FAILED]


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE.keys())
@pytest.mark.parametrize("hedge_after", [None, 60.0])
async def test_during_failover(leave: Any, hedge_after: float | None) -> None:
    """While the next route thinks, its connection is closed; the route after it hears nothing."""
    async with (
        LoopbackEngine(fault=Fault(status=503)) as first,
        LoopbackEngine(fault=Fault(first_token_delay=60.0)) as second,
        LoopbackEngine() as third,
    ):
        router = router_over(first, second, third, retries=0, hedge_after=hedge_after)
        session = StreamSession(router.producer("chat", prompt=PROMPT))

        async def thinking() -> None:
            await second.wait_until(lambda: len(second.requests) == 1)

        receipt = await left(session, thinking, leave)
        await second.wait_idle()
        assert second.requests[0].generated == 0
        assert (len(first.requests), len(third.requests)) == (1, 0)
        assert [each.failures for each in router.health()] == [1, 0, 0]
    assert [str(each.outcome) for each in receipt.attempts] == ["failed", "cut"]


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE.keys())
async def test_during_hedging(leave: Any) -> None:
    """While two calls race, both are closed and booked; no third is made, and no route is to blame."""
    slow = Fault(first_token_delay=60.0)
    async with (
        LoopbackEngine(fault=slow) as first,
        LoopbackEngine(fault=slow) as second,
        LoopbackEngine() as third,
    ):
        router = router_over(first, second, third, hedge_after=0.01)
        session = StreamSession(router.producer("chat", prompt=PROMPT))

        async def racing() -> None:
            await second.wait_until(lambda: len(second.requests) == 1)

        receipt = await left(session, racing, leave)
        await first.wait_idle()
        await second.wait_idle()
        assert [len(each.requests) for each in (first, second, third)] == [1, 1, 0]
        assert {each.state for each in router.health()} == {BreakerState.CLOSED}
        assert [each.failed for each in router.health()] == [0, 0, 0]
    assert sorted(str(each.role) for each in receipt.attempts) == ["first", "hedge"]
    assert {each.outcome for each in receipt.attempts} == {AttemptOutcome.CUT}


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE.keys())
async def test_while_it_is_gone_on_with(leave: Any) -> None:
    """A reader who leaves while another route goes on after the text: that call is closed, too."""
    async with (
        LoopbackEngine(fault=Fault(cut_after=5)) as first,
        LoopbackEngine(fault=Fault(first_token_delay=60.0)) as second,
    ):
        router = router_over(first, second, when_broken="resume")
        session = StreamSession(router.producer("chat", prompt=PROMPT))

        async def going_on() -> None:
            await second.wait_until(lambda: len(second.requests) == 1)

        receipt = await left(session, going_on, leave)
        await second.wait_idle()
        assert (len(first.requests), len(second.requests)) == (1, 1)
    assert [str(each.outcome) for each in receipt.attempts] == ["truncated", "cut"]


@pytest.mark.parametrize("policy", [drain(60.0), grace(60.0)], ids=["drain", "grace"])
async def test_what_is_read_on_is_not_called_again(policy: Any) -> None:
    """A call that is read on after the reader, and breaks off, is not gone on with for nobody."""
    async with (
        LoopbackEngine(tokens_per_second=200, fault=Fault(cut_after=20)) as first,
        LoopbackEngine() as second,
    ):
        router = router_over(first, second, when_broken="resume")
        session = StreamSession(router.producer("chat", prompt=PROMPT), on_disconnect=policy)

        async def some() -> None:
            await until(lambda: session.statistics().consumed >= 1)

        async def read() -> None:
            async for _ in session:
                pass

        reader = asyncio.ensure_future(read())
        await some()
        session.disconnected("the browser is gone")
        await first.wait_idle()
        await session.shutdown()
        await asyncio.wait([reader])
        assert (len(first.requests), len(second.requests)) == (1, 0)


async def test_a_report_that_was_cut_before() -> None:
    """Where the cutoff has passed already nobody is called at all."""
    async with LoopbackEngine() as first:
        stream = (
            router_over(first).producer("chat", prompt=PROMPT).stream(report=Recorder(cut=True))
        )
        assert [batch async for batch in stream] == []
        assert len(first.requests) == 0


def test_waiting_for_the_pace() -> None:
    """A reader who leaves while a route's pace is waited for gives its place back."""

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        refused = provider_error("p", status=429, retry_after=20.0)
        only = Provider([refused], ["fine"])
        only.clock = clock
        router = Router({"chat": Route(only.make, "m")}, clock=clock)
        sessions = [StreamSession(router.producer("chat", prompt=PROMPT)) for _ in range(2)]

        async def read(session: StreamSession) -> None:
            async for _ in session:
                pass

        readers = [asyncio.ensure_future(read(session)) for session in sessions]
        await settled()
        sessions[1].disconnected()
        await settled()
        await asyncio.wait(readers)
        receipts = [await session.receipt() for session in sessions]
        assert [str(each.cause) for each in receipts] == ["COMPLETED", "CLIENT_DISCONNECT"]
        assert only.calls[0] == 0.0
        assert len([at for at in only.calls if at > 0.0]) == 1

    run(main())


def test_a_probe_that_is_left_heals_nothing_and_harms_nothing() -> None:
    """After a reader who left during the probe, the route is half-open and the next caller probes it."""

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        only = Provider([provider_error("p", status=500)], [asyncio.Event().wait], ["fine"])
        from streamguard_providers import BreakerRule

        router = Router(
            {"chat": Route(only.make, "m")},
            clock=clock,
            retries=0,
            breaker=BreakerRule(failures=1, cooldown=5.0),
        )

        async def read(session: StreamSession) -> Receipt:
            async for _ in session:
                pass
            return await session.receipt()

        await read(StreamSession(router.producer("chat", prompt=PROMPT)))
        await asyncio.sleep(5.0)
        probe = StreamSession(router.producer("chat", prompt=PROMPT))
        reader = asyncio.ensure_future(read(probe))
        await settled()
        probe.disconnected()
        await reader
        assert router.health()[0].state is BreakerState.HALF_OPEN
        receipt = await read(StreamSession(router.producer("chat", prompt=PROMPT)))
        assert receipt.completed
        assert router.health()[0].state is BreakerState.CLOSED

    run(main())


async def test_three_providers_in_parallel_under_one_scope() -> None:
    """Three streams of one request, by three providers: when its reader leaves, all three stop."""
    async with (
        LoopbackEngine(tokens_per_second=100) as one,
        LoopbackEngine(tokens_per_second=100) as two,
        LoopbackEngine(tokens_per_second=100) as three,
    ):
        engines = (one, two, three)
        routers = [router_over(each) for each in engines]
        scope = Scope()
        with use_scope(scope):
            sessions = [
                StreamSession(router.producer("chat", prompt=PROMPT, max_tokens=50_000))
                for router in routers
            ]
            for session in sessions:
                scope.add(session)

            async def read(session: StreamSession) -> None:
                async for _ in session:
                    pass

            readers = [asyncio.ensure_future(read(session)) for session in sessions]
            await until(lambda: all(each.statistics().consumed >= 2 for each in sessions))
            scope.disconnected("the browser is gone")
            await asyncio.gather(*readers)
        receipts = [await session.receipt() for session in sessions]
        for engine in engines:
            await engine.wait_idle()
        assert [len(engine.requests) for engine in engines] == [1, 1, 1]
        assert not any(engine.requests[0].ran_to_end for engine in engines)
    assert {each.cause for each in receipts} == {Cause.CLIENT_DISCONNECT}
    assert [str(each.attempts[0].outcome) for each in receipts] == ["cut"] * 3
