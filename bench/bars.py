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


SERVED_NOTE: Final = (
    "Chunks that arrive together leave in one send: the bar of 0.5 is about the kernel's part of a send."
    " Those against sse-starlette and FastAPI are set for instructions; here they are set where sends are few."
)
CYCLE_NOTE: Final = (
    "No kernel is in it, so the bar of 0.5 of raw for chunks that arrive together does not apply;"
    " those against sse-starlette and FastAPI are set for these counts. With a loop turn before every chunk"
    " they show how near one gets: raw ASGI alone, which is mostly that turn, is above them."
)


def served_bars(together: int) -> dict[str, Bar]:
    """CPU against raw ASGI, which sends each chunk by itself."""
    return {MOUNTED: Bar(1.25 if together == 1 else 0.5, "of raw")}


def cycle_bars(together: int) -> dict[str, Bar]:
    """Instructions against raw ASGI: without the kernel a send costs little, so one send for many saves little."""
    return {MOUNTED: Bar(1.25, "of raw")} if together == 1 else {}


def comparisons(compare: Measured, *, peers: bool) -> Iterator[Row]:
    """Against what frameworks do by themselves; `peers`: also against the expensive ones."""
    yield compare(ROUTE, STARLETTE, "route against StreamingResponse", 1.05)
    yield compare(MOUNTED, STARLETTE, "mounted against StreamingResponse", 1.0)
    if peers:
        yield compare(ROUTE, SSE, "route against sse-starlette", 0.30)
        yield compare(ROUTE, FASTAPI, "route against FastAPI's SSE", 0.065)
