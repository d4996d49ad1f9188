"""The producer's own code cuts its stream off while the reader runs it, and emits empty chunks; read in every way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from streamguard_core import AnyChunk, Cause, CloseState, Deadlines, StreamSession

ReadAll = Callable[[StreamSession], Coroutine[Any, Any, list[AnyChunk]]]


@pytest.mark.parametrize("deadlines", [None, Deadlines(total=60)], ids=["untimed", "timed"])
@pytest.mark.parametrize("before", [[], ["a"], ["a", "b", "c"]], ids=len)
async def test_what_is_yielded_behind_the_own_cut_is_late(
    read_all: ReadAll, before: list[str], deadlines: Deadlines | None
) -> None:
    """The count is frozen in the step of the cut, though the reader is inside the producer just then (G1, G2)."""

    async def cutting() -> AsyncIterator[str]:
        for word in before:
            yield word
        session.cancel("that was all")
        yield "late"

    session = StreamSession(cutting(), deadlines=deadlines)
    assert await read_all(session) == before
    receipt = await session.receipt()
    assert (receipt.cause, receipt.close) == (Cause.USER_CANCEL, CloseState.CONFIRMED)
    assert (receipt.produced, receipt.late) == (len(before), 1)


async def test_empty_chunks_are_no_sign_of_life(read_all: ReadAll) -> None:
    """Silence is counted from the last content, also where empty chunks come together with it (G14)."""

    async def silent() -> AsyncIterator[str]:
        for word in ("a", "b", "", ""):
            yield word
        await asyncio.sleep(4)
        yield ""
        await asyncio.sleep(4)

    session = StreamSession(silent(), deadlines=Deadlines(idle=5))
    assert [chunk for chunk in await read_all(session) if chunk] == ["a", "b"]
    assert (await session.receipt()).cause is Cause.TIMEOUT_IDLE
    assert asyncio.get_running_loop().time() == 5


async def test_a_send_beside_nothing_is_just_awaited() -> None:
    """Where no next chunk is begun, `beside()` costs no task."""

    async def send() -> None:
        sent_in.append(asyncio.current_task())

    async def words() -> AsyncIterator[str]:
        yield "a"

    sent_in: list[asyncio.Task[Any] | None] = []
    session = StreamSession(words())
    async for _ in session.batches(beside=True):
        await session.beside(send())
    assert sent_in == [asyncio.current_task()]
    await session.receipt()
