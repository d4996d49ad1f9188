"""What the served applications are, and what they have to meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from bench.harness import Bar, Row

CASES: Final = {
    "raw ASGI, formats and sends each": "/raw",
    "guarded, mounted as plain ASGI": "/mounted",
    "guarded, Starlette route": "/guarded",
    "guarded, with StreamGuardMiddleware": "/under/guarded",
    "StreamingResponse, Starlette route": "/unguarded",
    "sse-starlette EventSourceResponse": "/sse-starlette",
    "FastAPI's own SSE": "/fastapi/events",
}
RAW, MOUNTED, ROUTE, _, STARLETTE, SSE, FASTAPI = CASES

Measured = Callable[[str, str, str, float], Row]
"""Compares ours, theirs; a label and what the ratio may be."""


def bars(together: int) -> dict[str, Bar]:
    """Against raw ASGI, which sends each chunk by itself."""
    return {MOUNTED: Bar(1.25 if together == 1 else 0.5, "of raw")}


def comparisons(compare: Measured, together: int) -> Iterator[Row]:
    """Against what frameworks do by themselves.

    Where every chunk waits for a turn of the loop, nothing can be much cheaper than raw ASGI, so the bars of
    the expensive peers are set where chunks arrive together.
    """
    yield compare(ROUTE, STARLETTE, "route against StreamingResponse", 1.05)
    yield compare(MOUNTED, STARLETTE, "mounted against StreamingResponse", 1.0)
    if together > 1:
        yield compare(ROUTE, SSE, "route against sse-starlette", 0.30)
        yield compare(ROUTE, FASTAPI, "route against FastAPI's SSE", 0.065)
