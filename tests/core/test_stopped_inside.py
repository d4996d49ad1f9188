"""A producer whose own parts are told to stop: the end that its session has asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from streamguard_core import Cause, CloseState, StreamSession, SyncStreamSession
from streamguard_core.errors import StreamStopped


async def test_a_part_that_stops_is_no_failure() -> None:
    """Raised after the cutoff it is the confirmed end; its reader gets EOS, and no error."""

    async def producer() -> AsyncIterator[str]:
        yield "a"
        session.cancel("enough")
        raise StreamStopped

    session = StreamSession(producer())
    assert [chunk async for chunk in session] == ["a"]
    receipt = await session.receipt()
    assert (receipt.cause, receipt.close) == (Cause.USER_CANCEL, CloseState.CONFIRMED)
    assert len(receipt.history) == 1


def test_the_same_without_a_loop() -> None:
    """The reader's thread gets EOS, and no error."""

    def producer() -> Iterator[str]:
        yield "a"
        session.cancel("enough")
        raise StreamStopped

    session = SyncStreamSession(producer())
    assert list(session) == ["a"]
    assert session.receipt().close is CloseState.CONFIRMED
    assert len(session.receipt().history) == 1


async def test_foreign_stop_is_a_failure() -> None:
    """Raised before the cutoff, by what belongs to another stream, it is a failure like any other."""

    async def producer() -> AsyncIterator[str]:
        yield "a"
        raise StreamStopped

    session = StreamSession(producer())
    assert [chunk async for chunk in session] == ["a"]
    assert (await session.receipt()).cause is Cause.PRODUCER_ERROR


def test_interrupts_still_pass() -> None:
    """What is the process's affair passes through a session."""

    def producer() -> Iterator[str]:
        yield "a"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(SyncStreamSession(producer()))
