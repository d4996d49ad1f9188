"""What an open stream that is waiting for its next chunk keeps in memory.

`python -m bench.memory HOLDER HOW STREAMS` is the measured side; `table()` starts it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from statistics import median
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


SIZES: Final = (0.75, 1.0, 1.5)


async def table(streams: int) -> Table:
    """Kilobytes per open stream, whose reader waits for the second chunk; with its task."""
    rows = [row for how in WEIGHED for row in _rows(how, streams)]
    note = (
        "Each figure is from a fresh process, where nothing that was freed before is used again;"
        f" the median of {len(SIZES)} numbers of streams, since the loop's own tables grow in leaps."
    )
    return Table(
        f"Memory of an idle open stream (about {streams:,})", "KB/stream", tuple(rows), note
    )


def _rows(how: str, streams: int) -> Iterator[Row]:
    bare, pull, push = (
        [_in_fresh_process(name, how, int(streams * size)) for size in SIZES] for name in HOLDERS
    )
    yield Row(f"bare generator, {how}", median(bare))
    yield Row(f"pulled session, {how}", median(pull), bar=Bar(4.0))
    yield Row(f"pulled session over bare, {how}", _over(pull, bare), bar=Bar(1.5))
    yield Row(f"pushed session over bare, {how}", _over(push, bare))


def _over(figures: list[float], bare: list[float]) -> float:
    return median(figure - least for figure, least in zip(figures, bare, strict=True))


def _in_fresh_process(name: str, how: str, streams: int) -> float:
    command = [sys.executable, "-m", "bench.memory", name, how, str(streams)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    answer = subprocess.run(command, check=True, capture_output=True, env=environment)
    return float(answer.stdout)


async def _measure(name: str, how: str, streams: int) -> float:
    hold, weigh, until = HOLDERS[name], WEIGHED[how], asyncio.Event()
    if weigh is _allocated:
        tracemalloc.start()
    tasks = [asyncio.create_task(hold(until))]  # what is made once is made here
    await _settle()
    before = weigh()
    tasks += [asyncio.create_task(hold(until)) for _ in range(streams)]
    await _settle()
    figure = (weigh() - before) / streams / KILOBYTE
    tracemalloc.stop()
    until.set()
    await asyncio.gather(*tasks)
    return figure


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


WEIGHED: Final = {"allocated": _allocated, "resident": _resident}


if __name__ == "__main__":
    print(asyncio.run(_measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
