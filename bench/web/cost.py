"""Server CPU per chunk: each framework's response unguarded, under the middleware, and under `guard_stream`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from bench.harness import Bar, Row, Series, Table
from bench.reading import read
from bench.web.serve import server, state

CONNECTIONS: Final = 16
TOGETHER: Final = {"a loop turn before every chunk": 1, "16 chunks arrive together": 16}
PAIRS: Final = {
    "Starlette": {
        "StreamingResponse": "/starlette",
        "  under the middleware": "/under/starlette",
        "  under guard_stream": "/under/starlette-guarded",
        "  its producer under guard_stream": "/under/guarded",
    },
    "sse-starlette": {
        "EventSourceResponse": "/sse",
        "  under the middleware": "/under/sse",
        "  under guard_stream": "/under/sse-guarded",
    },
    "FastAPI": {
        "own events": "/fastapi/own",
        "  under the middleware": "/under/fastapi/own",
        "  under guard_stream": "/under/fastapi/guarded",
    },
}
BAR: Final = Bar(1.10, "of the same unguarded")


async def _figure(url: str, path: str, chunks: int, together: int) -> float:
    begin = state(url)["cpu_ns"]
    target = f"{path}?chunks={chunks}&together={together}"
    sizes = await asyncio.gather(*(read(url, target) for _ in range(CONNECTIONS)))
    if min(sizes) < chunks * len("token "):
        raise RuntimeError(f"{path} sent {min(sizes)} bytes for {chunks} chunks; the run is void")
    spent: float = (state(url)["cpu_ns"] - begin) / (chunks * CONNECTIONS)
    return spent


async def tables(*, quick: bool) -> AsyncIterator[Table]:
    """One table per framework and kind of arrival; all cases of a framework in each round."""
    rounds, chunks = (3, 300) if quick else (7, 1500)
    with server() as url:
        for kind, together in TOGETHER.items():
            for framework, cases in PAIRS.items():
                figures: dict[str, list[float]] = {name: [] for name in cases}
                for number in range(rounds + 1):
                    for name, path in cases.items():
                        figure = await _figure(url, path, chunks, together)
                        if number:  # the first round only warms up
                            figures[name].append(figure)
                yield Table(f"{framework}, {kind}", "CPU ns/chunk", _rows(Series(figures)))


def _rows(series: Series) -> tuple[Row, ...]:
    base = next(iter(series.figures))
    return series.rows(base, dict.fromkeys([name for name in series.figures if name != base], BAR))
