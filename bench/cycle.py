"""The served applications in one process, driven by uvicorn's own request cycle: instructions per chunk.

`python -m bench.cycle SHORT LONG` is the counted side; `tables()` starts it and reads the counts.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from bench import served
from bench.bars import CASES, CYCLE_NOTE, RAW, Measured, comparisons, cycle_bars
from bench.callgrind import marked, stretches
from bench.counted import against, slope
from bench.harness import Row, Table

LENGTHS: Final = (200, 1000)
TOGETHER: Final = {"a loop turn before every chunk": 1, "16 chunks arrive together": 16}
_LOG: Final = logging.getLogger("uvicorn.error")


def tables() -> Iterable[Table]:
    """As through a server, without sockets: what the kernel does falls out as well."""
    counts = stretches("bench.cycle", *map(str, LENGTHS))
    for kind, together in TOGETHER.items():
        slopes = {name: slope(next(counts), next(counts), LENGTHS) for name in CASES}
        found = cycle_bars(together)
        rows = [against(name, it, RAW, slopes[RAW], found.get(name)) for name, it in slopes.items()]
        rows += comparisons(_compare(slopes), peers=True)
        title = f"Instructions in uvicorn's request cycle, {kind}"
        yield Table(title, "per chunk", tuple(rows), CYCLE_NOTE)


def _compare(slopes: dict[str, float]) -> Measured:
    def compare(ours: str, theirs: str, label: str, limit: float) -> Row:
        return against(label, slopes[ours], theirs, slopes[theirs], None).judged(limit)

    return compare


class _Wire(asyncio.Transport):
    """A transport that everything can be written to."""

    def write(self, data: Any) -> None:
        """Forget it."""

    def is_closing(self) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """Stay open."""


async def answer(path: str, chunks: int, together: int) -> None:
    """One request, from its scope to its last chunk."""
    wire, answered = _Wire(), asyncio.Event()
    scope: Any = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 50_000),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": f"chunks={chunks}&together={together}".encode(),
        "headers": [(b"host", b"127.0.0.1")],
        "state": {},
    }
    cycle = RequestResponseCycle(
        scope,
        wire,
        FlowControl(wire),
        _LOG,
        _LOG,
        access_log=False,
        default_headers=[],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=True,
        on_response=answered.set,
    )
    cycle.more_body = False
    await cycle.run_asgi(served.application)  # type: ignore[arg-type]
    if not answered.is_set():
        raise RuntimeError(f"{path} was not answered to its end; the run is void")


async def _count(lengths: list[int]) -> None:
    for together in TOGETHER.values():
        for path in CASES.values():
            await answer(path, 50, together)  # what is done once is done here
            for chunks in lengths:
                await marked(partial(answer, path, chunks, together))


if __name__ == "__main__":
    asyncio.run(_count([int(argument) for argument in sys.argv[1:]]))
