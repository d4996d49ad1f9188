"""What an open stream that is waiting for its next chunk keeps in memory."""

from __future__ import annotations

import asyncio
import gc
import os
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from bench.harness import Bar, Row, Table
from streamguard_core import StreamSession

KILOBYTE: Final = 1024
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

Holder = Callable[[asyncio.Event], Coroutine[Any, Any, None]]


async def _silent(until: asyncio.Event) -> AsyncIterator[str]:
    yield "token "
    await until.wait()


class _Pushing:
    def __init__(self, until: asyncio.Event) -> None:
        self._until = until

    async def run(self, *, out: Callable[[str], Awaitable[None]], cancel_event: object) -> None:
        await out("token ")
        await self._until.wait()


async def _bare(until: asyncio.Event) -> None:
    async for _ in _silent(until):
        pass


async def _pull(until: asyncio.Event) -> None:
    async for _ in StreamSession(_silent(until)):
        pass


async def _push(until: asyncio.Event) -> None:
    async for _ in StreamSession(_Pushing(until)):
        pass


HOLDERS: Final[dict[str, Holder]] = {"bare generator": _bare, "pull": _pull, "push": _push}


async def table(streams: int) -> Table:
    """Kilobytes per open stream, whose reader waits for the second chunk; with its task."""
    resident = await _measure(streams, _resident)
    allocated = await _measure(streams, _allocated)
    rows = [*_rows("allocated", allocated), *_rows("resident", resident)]
    note = "Resident figures hold in a fresh process only: what was freed before is used again."
    title = f"Memory of an idle open stream ({streams:,} of them)"
    return Table(title, "KB/stream", tuple(rows), note)


def _rows(how: str, figures: Mapping[str, float]) -> Iterator[Row]:
    bare, pull, push = figures.values()
    yield Row(f"bare generator, {how}", bare)
    yield Row(f"pulled session, {how}", pull, bar=Bar(4.0))
    yield Row(f"pulled session over bare, {how}", pull - bare, bar=Bar(1.5))
    yield Row(f"pushed session over bare, {how}", push - bare)


async def _measure(streams: int, weigh: Callable[[], int]) -> dict[str, float]:
    """All streams stay open until the last case is measured: what is freed would be used again."""
    until = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []
    figures = {}
    if weigh is _allocated:
        tracemalloc.start()
    for hold in HOLDERS.values():  # what is made once is made here
        tasks.append(asyncio.create_task(hold(until)))  # noqa: PERF401
    await _settle()
    for name, hold in HOLDERS.items():
        before = weigh()
        tasks += [asyncio.create_task(hold(until)) for _ in range(streams)]
        await _settle()
        figures[name] = (weigh() - before) / streams / KILOBYTE
    tracemalloc.stop()
    until.set()
    await asyncio.gather(*tasks)
    return figures


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()


def _allocated() -> int:
    return tracemalloc.get_traced_memory()[0]


def _resident() -> int:
    """Bytes of this process in memory; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0
