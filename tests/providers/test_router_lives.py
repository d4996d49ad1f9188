"""Whole lives of routed streams, with providers that fail anywhere and repeat what they like, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streamguard_core import (
    AnyChunk,
    AttemptOutcome,
    AttemptRole,
    Cause,
    Receipt,
    Report,
    StreamSession,
    TruncatedStream,
    text_of,
)
from streamguard_core.testing import run
from streamguard_providers import BreakerRule, Retries, Route, Router
from streamguard_providers.errors import provider_error

TEXT = " ".join(f"word{number}" for number in range(12)) + "."
WORDS = TEXT.split(" ")


@dataclass(frozen=True)
class Deed:
    """What one call does: waits, repeats so much of what was there, says some words, and ends somehow."""

    wait: float
    repeats: str
    words: int
    end: str


DEEDS = st.builds(
    Deed,
    wait=st.sampled_from([0.0, 0.0, 0.5, 3.0]),
    repeats=st.sampled_from(["nothing", "nothing", "all", "half"]),
    words=st.integers(0, 5),
    end=st.sampled_from(["goes on", "goes on", "truncated", "error", "limited", "refused"]),
)


class World:
    """The providers of one life: each call does the next deed; when they are all done, calls just answer."""

    def __init__(self, deeds: list[Deed]) -> None:
        self.deeds = list(deeds)
        self.begun: list[float] = []
        self.running = 0
        self.left_at: float | None = None

    def make(self, model: str, **options: Any) -> Answer:
        """The factory of every route."""
        return Answer(self, "")


class Answer:
    """A producer that can go on after a text."""

    continues = True

    def __init__(self, world: World, prefix: str) -> None:
        self.world = world
        self.prefix = prefix

    def resumed(self, prefix: str) -> Answer:
        """One of the rest."""
        return Answer(self.world, prefix)

    async def stream(self, *, report: Report) -> AsyncIterator[list[AnyChunk]]:
        world = self.world
        world.begun.append(asyncio.get_running_loop().time())
        world.running += 1
        deed = world.deeds.pop(0) if world.deeds else Deed(0.0, "nothing", 99, "goes on")
        try:
            async for batch in self.play(deed):
                yield batch
            report.finish("stop")
        finally:
            world.running -= 1

    async def play(self, deed: Deed) -> AsyncIterator[list[AnyChunk]]:
        await asyncio.sleep(deed.wait)
        back = {"nothing": 0, "all": len(self.prefix), "half": len(self.prefix) // 2}[deed.repeats]
        # Less than that may well be meant, and is not taken for a repetition.
        back = back if back >= 24 or back == len(self.prefix) >= 8 else 0
        rest = TEXT[len(self.prefix) - back :]
        pieces = [rest[at : at + 6] for at in range(0, len(rest), 6)]
        said = pieces if deed.end == "goes on" else pieces[: deed.words]
        for piece in said:
            yield [piece]
            await asyncio.sleep(0.1)
        if deed.end == "truncated":
            raise TruncatedStream("ended")
        if deed.end == "error":
            raise provider_error("p", status=503)
        if deed.end == "limited":
            raise provider_error("p", status=429, retry_after=2.0)
        if deed.end == "refused":
            raise provider_error("p", status=401)


def router_of(world: World, hedge_after: float | None) -> Router:
    """Three routes to the same world."""
    return Router(
        {"chat": [Route(world.make, "m", provider=name) for name in "abc"]},
        when_broken=("resume", "partial"),
        retries=Retries(most=1, random=lambda: 0.5),
        breaker=BreakerRule(failures=2, cooldown=5.0),
        hedge_after=hedge_after,
        clock=asyncio.get_running_loop().time,
    )


HOW = ["disconnected", "cancel", "task", "break"]


async def live(
    deeds: list[Deed], hedge_after: float | None, leave: tuple[float, str] | None
) -> tuple[str, Receipt, World, Router]:
    """One stream, which its reader may leave."""
    world = World(deeds)
    router = router_of(world, hedge_after)
    session = StreamSession(router.producer("chat", prompt="p"))
    seen: list[str] = []
    over = asyncio.Event()

    async def read() -> None:
        chunks = session.__aiter__()
        async for chunk in chunks:
            seen.append(text_of(chunk))
            if over.is_set():
                break
        await chunks.aclose()

    reader = asyncio.ensure_future(read())
    if leave is not None:
        seconds, how = leave
        await asyncio.wait([reader], timeout=seconds)
        over.set()
        world.left_at = asyncio.get_running_loop().time()
        if how == "disconnected":
            session.disconnected()
        elif how == "cancel":
            session.cancel()
        elif how == "task":
            reader.cancel()
    await asyncio.wait([reader])
    receipt = await session.receipt()
    return "".join(seen), receipt, world, router


LEAVE = st.none() | st.tuples(st.floats(0.0, 6.0), st.sampled_from(HOW))


@settings(max_examples=150, deadline=None)
@given(st.lists(DEEDS, max_size=8), st.none() | st.sampled_from([0.0, 0.2, 1.0]), LEAVE)
def test_lives(
    deeds: list[Deed], hedge_after: float | None, leave: tuple[float, str] | None
) -> None:
    """Nothing is repeated or lost, every call is booked and ended, and none is made for a reader who left."""
    text, receipt, world, router = run(live(deeds, hedge_after, leave))
    # Committed text is never repeated or lost; what is complete is all of it.
    assert TEXT.startswith(text)
    if receipt.completed:
        assert text == TEXT
    # Every call is on the receipt, and over.
    assert len(receipt.attempts) == len(world.begun) <= 8
    assert world.running == 0
    assert all(each.outcome is not None for each in receipt.attempts)
    firsts = [each for each in receipt.attempts if each.role is AttemptRole.FIRST]
    assert len(firsts) == min(1, len(world.begun))
    done = [each for each in receipt.attempts if each.outcome is AttemptOutcome.COMPLETED]
    assert len(done) <= 1
    # For a reader who left no call is made. A `break` is one once the reader is at its next chunk.
    if world.left_at is not None and leave is not None and leave[1] != "break":
        assert all(began <= world.left_at for began in world.begun)
    if leave is None:
        assert receipt.cause in {Cause.COMPLETED, Cause.TRUNCATED, Cause.PRODUCER_ERROR}
    # Nobody is left holding a permit: each route can be probed again.
    assert all(health.calls >= health.answered + health.failed for health in router.health())
