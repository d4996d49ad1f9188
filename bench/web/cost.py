"""Server CPU per chunk: each framework's response unguarded, under the middleware, and under `guard_stream`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from bench.harness import Bar, Row, Series, Table
from bench.reading import TOGETHER, cpu_per_chunk
from bench.web.serve import server

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
    "Django": {
        "StreamingHttpResponse": "/django/plain/own",
        "  under the middleware": "/django/under/own",
        "  and the guarded ASGI application": "/django/whole/own",
        "  GuardedStreamingHttpResponse": "/django/under/guarded",
    },
    "FastAPI": {
        "own events": "/fastapi/own",
        "  under the middleware": "/under/fastapi/own",
        "  under guard_stream": "/under/fastapi/guarded",
    },
}
BAR: Final = Bar(1.10, "of the same unguarded")


async def tables(*, quick: bool) -> AsyncIterator[Table]:
    """One table per framework and kind of arrival; all cases of a framework in each round."""
    # Of the same length either way: what opening and ending a stream costs is in it.
    rounds, chunks = (5 if quick else 15), 800
    with server() as url:
        for kind, together in TOGETHER.items():
            for framework, cases in PAIRS.items():
                series = await cpu_per_chunk(url, cases, together, rounds=rounds, chunks=chunks)
                yield Table(f"{framework}, {kind}", "CPU ns/chunk", _rows(series))


def _rows(series: Series) -> tuple[Row, ...]:
    base = next(iter(series.figures))
    return series.rows(base, dict.fromkeys([name for name in series.figures if name != base], BAR))
