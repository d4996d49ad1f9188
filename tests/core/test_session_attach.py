"""Tests of calls made under a session: `governed()`, `attach()`, and providers' streams opened before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from streamguard_core import Cause, CloseState, CutOffError, MemoryLedger, StreamSession
from streamguard_core.testing import (
    ScriptedProducer,
    emit,
    hang,
    scripted_iterator,
    settled,
)


async def later(seconds: float, result: str) -> str:
    """Answer after a time."""
    await asyncio.sleep(seconds)
    return result


async def test_governed_returns_what_it_awaits() -> None:
    """A call under a live session is just awaited."""
    session = StreamSession()
    assert await session.governed(later(5, "connected")) == "connected"
    session.attach(ScriptedProducer(emit("a")))
    assert [chunk async for chunk in session] == ["a"]
    await session.receipt()


async def test_governed_is_interrupted_at_the_cutoff() -> None:
    """The reader leaves while the provider is being called: the call ends at once, the task is as before."""
    session = StreamSession()
    cleaned: list[int] = []

    async def connect() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            cleaned.append(1)

    asyncio.get_running_loop().call_later(2, session.disconnected)
    with pytest.raises(CutOffError, match=r"was cut off .CLIENT_DISCONNECT. during this call"):
        await session.governed(connect())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert cleaned == [1]
    assert asyncio.get_running_loop().time() == 2
    assert (await session.receipt()).cause is Cause.CLIENT_DISCONNECT


async def test_governed_after_the_cutoff_begins_nothing() -> None:
    """The awaitable is not even begun; a coroutine is closed, so that it does not complain."""
    session = StreamSession()
    session.start()
    session.cancel()
    begun: list[int] = []

    async def connect() -> None:
        begun.append(1)

    for awaitable in (connect(), asyncio.get_running_loop().create_future()):
        with pytest.raises(CutOffError, match=r"was cut off .USER_CANCEL. before this call began"):
            await session.governed(awaitable)
    assert begun == []


async def test_governed_lets_errors_through() -> None:
    """What the call raises is the caller's matter; the session goes on."""
    session = StreamSession()

    async def refuse() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await session.governed(refuse())
    assert session.cause is None
    await session.aclose()


async def test_governed_lets_an_outside_cancellation_through() -> None:
    """Alone, or in the same turn as the cutoff."""
    for cut in (False, True):
        session = StreamSession()
        task = asyncio.create_task(session.governed(later(60, "")))
        await settled()
        task.cancel()
        if cut:
            session.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await session.aclose()


async def test_governed_code_that_cuts_its_own_stream_off() -> None:
    """The call is interrupted when it next waits, or returns what it has."""
    session = StreamSession()

    async def cut_and_wait() -> None:
        session.cancel()
        await asyncio.sleep(600)

    with pytest.raises(CutOffError):
        await session.governed(cut_and_wait())
    assert asyncio.get_running_loop().time() == 0
    session = StreamSession()

    async def cut_and_return() -> str:
        session.cancel()
        return "done"

    assert await session.governed(cut_and_return()) == "done"
    await asyncio.sleep(0)
    await asyncio.sleep(1)  # nothing interrupts what comes after
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_governed_code_that_swallows_the_interruption() -> None:
    """It may finish what it does; its result is returned, and the task is as before."""
    session = StreamSession()

    async def stubborn() -> str:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            return "kept"
        return "never"

    asyncio.get_running_loop().call_later(1, session.cancel)
    assert await session.governed(stubborn()) == "kept"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_governed_is_interrupted_from_another_thread() -> None:
    """A transport in a thread may end the stream."""
    session = StreamSession()
    call = asyncio.create_task(session.governed(later(600, "")))
    await settled()
    await asyncio.to_thread(session.disconnected, "from a thread")
    with pytest.raises(CutOffError):
        await call


async def test_attach_before_start() -> None:
    """A session may be built first, given its producer, and started then."""
    for producer in (ScriptedProducer(emit("a")), scripted_iterator(emit("a"))):
        session = StreamSession()
        session.attach(producer)
        assert [chunk async for chunk in session] == ["a"]
        assert (await session.receipt()).cause is Cause.COMPLETED


class Opened:
    """A provider's stream as SDKs hand it out: it is open before anybody reads it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.closed = 0
        self._error = error

    def __aiter__(self) -> Opened:
        return self

    async def __anext__(self) -> str:
        return "x"

    async def aclose(self) -> None:
        """Close the connection."""
        self.closed += 1
        await asyncio.sleep(0)
        if self._error:
            raise self._error


class OpenedByAnSdk(Opened):
    """The same, closed by `close()`, which is a coroutine."""

    aclose = None  # type: ignore[assignment]

    async def close(self) -> None:
        """Close the connection."""
        self.closed += 1


@pytest.mark.parametrize("kind", [Opened, OpenedByAnSdk])
@pytest.mark.parametrize("keywords", [{}, {"own_task": True}, {"ledger": MemoryLedger()}])
async def test_an_open_stream_that_was_never_read_is_closed(
    kind: Callable[[], Opened], keywords: dict[str, Any]
) -> None:
    """Cut off before the first read, the provider's connection is closed all the same (G10)."""
    opened = kind()
    session = StreamSession(opened, **keywords)
    session.start()
    session.disconnected("left at once")
    receipt = await session.receipt()
    assert opened.closed == 1
    assert (receipt.close, receipt.produced) == (CloseState.CONFIRMED, 0)


@pytest.mark.parametrize("own_task", [False, True])
async def test_closing_what_was_never_read_may_fail(own_task: bool) -> None:
    """An error while closing it is history."""
    session = StreamSession(Opened(OSError()), own_task=own_task)
    session.start()
    session.cancel()
    receipt = await session.receipt()
    assert [signal.detail for signal in receipt.history] == ["", "OSError"]


async def test_an_open_stream_of_a_session_that_never_began_is_closed() -> None:
    """`aclose()` before `start()` closes what was handed in."""
    opened = Opened()
    await StreamSession(opened).aclose()
    assert opened.closed == 1
    # An object that produces when it is run holds nothing open.
    await StreamSession(ScriptedProducer()).aclose()


async def test_an_open_stream_that_comes_after_the_cutoff_is_closed() -> None:
    """The reader left while the endpoint opened the provider; what it attaches is closed at once (pitfall 3)."""
    for own_task in (False, True):
        opened = Opened()
        session = StreamSession(own_task=own_task)
        session.start()
        session.disconnected("left during connect")
        session.attach(opened)
        await settled()
        assert opened.closed == 1
        assert (await session.receipt()).produced == 0


async def test_a_producer_that_comes_after_the_cutoff_is_never_run() -> None:
    """Nothing is called, nothing costs."""
    producer = ScriptedProducer(emit("a"), hang())
    session = StreamSession()
    session.start()
    session.cancel()
    session.attach(producer)
    assert [chunk async for chunk in session] == []
    assert producer.played.begun == 0
    await session.receipt()
