"""Tests of the places that drains share: taken, given back, refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from streamguard_core import (
    Cause,
    CloseState,
    DrainEnd,
    DrainLimit,
    StreamSession,
    SyncStreamSession,
    drain,
)
from streamguard_core.testing import (
    ManualClock,
    ScriptedProducer,
    ScriptedPull,
    Step,
    emit,
    fail,
    finish,
    hang,
    settled,
    wait,
)

from .terms import left


async def test_drains_share_their_places() -> None:
    """Where none is free the stream is cancelled, and the receipt says why; an ended drain frees its place."""
    limit = DrainLimit(1)
    policy = drain(60, limit=limit)
    assert str(policy) == "drain(60s,at_once=1)"

    def stream(*script: Step) -> StreamSession:
        session = StreamSession(ScriptedProducer(*script), on_disconnect=policy, max_tokens=9)
        session.start()
        return session

    first, second = stream(emit("a"), wait(5)), stream(emit("a"), hang())
    await settled()
    first.disconnected("left")
    second.disconnected("left, too")
    assert limit.running == 1
    refused = await second.receipt()
    assert asyncio.get_running_loop().time() == 0
    assert (refused.cause, refused.policy) == (Cause.CLIENT_DISCONNECT, "drain(60s,at_once=1)")
    assert (refused.drain, refused.detail) == (DrainEnd.NO_PLACE, "left, too")
    assert (refused.close, refused.prevented.upper) == (CloseState.CONFIRMED, 8)
    assert (await first.receipt()).drain is DrainEnd.FINISHED
    assert limit.running == 0
    assert (await left(stream(emit("a"), wait(1)))).drain is DrainEnd.FINISHED


LEAVING: dict[str, tuple[list[Step], bool]] = {
    "the drain ends": ([emit("a"), wait(1)], True),
    "it fails": ([emit("a"), wait(1), fail()], True),
    "it takes too long": ([emit("a"), hang()], True),
    "it had ended before": ([emit("a")], False),
    "only the usage is missing": ([emit("a"), finish("stop"), hang()], False),
}


@pytest.mark.parametrize("how", LEAVING)
async def test_a_place_is_always_given_back(how: str) -> None:
    """However the drain ends; what is no drain takes none, and none is lost to a second disconnect."""
    script, takes = LEAVING[how]
    limit = DrainLimit(2)
    session = StreamSession(ScriptedPull(*script), on_disconnect=drain(3, limit=limit))
    session.start()
    reading = aiter(session)
    await anext(reading)
    await settled()
    session.disconnected("left")
    session.disconnected("left again")
    assert limit.running == (1 if takes else 0)
    await session.aclose()
    await session.receipt()
    assert limit.running == 0


async def test_a_stream_that_was_never_started_takes_no_place() -> None:
    """There is nothing to read on, and nobody who would give the place back."""
    limit = DrainLimit(1)
    session = StreamSession(ScriptedProducer(emit("a")), on_disconnect=drain(9, limit=limit))
    session.disconnected("left before it began")
    assert limit.running == 0
    session.start()
    assert (await session.receipt()).drain is DrainEnd.FINISHED
    assert limit.running == 0


def test_a_place_is_given_back_without_a_loop() -> None:
    """A sync session's drain runs in the reader's thread, and frees its place when it is over."""
    limit, clock = DrainLimit(1), ManualClock()

    def words() -> Iterator[str]:
        for word in "abc":
            yield word
            running.append(limit.running)

    running: list[int] = []
    with SyncStreamSession(words(), on_disconnect=drain(9, limit=limit), clock=clock) as session:
        next(iter(session))
    assert session.receipt().drain is DrainEnd.FINISHED
    assert (running, limit.running) == ([1, 1, 1], 0)
