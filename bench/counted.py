"""Instructions per chunk of every case in process.

`python -m bench.counted SHORT LONG` is the counted side; `tables()` starts it and reads the counts.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final

from bench.callgrind import marked, stretches
from bench.cases import BARE, every_case, ready, ticking
from bench.harness import Bar, Row, Table

LENGTHS: Final = (500, 2500)
_PRODUCERS: Final = {"hot": ready, "a loop turn before every chunk": ticking}


def tables(bars: Mapping[str, Mapping[str, Bar]]) -> Iterable[Table]:
    """The slope between two lengths of stream, so that set-up falls out."""
    counts = stretches("bench.counted", *map(str, LENGTHS))
    for kind in _PRODUCERS:
        slopes = {name: slope(next(counts), next(counts), LENGTHS) for name in every_case()}
        rows = tuple(
            against(name, figure, BARE, slopes[BARE], bars.get(kind, {}).get(name))
            for name, figure in slopes.items()
        )
        yield Table(f"Instructions, {kind} (callgrind, slope of {LENGTHS})", "per chunk", rows)


def slope(short: int, long: int, lengths: tuple[int, int]) -> float:
    """Instructions per chunk, from those of a short and a long stream."""
    return (long - short) / (lengths[1] - lengths[0])


def against(name: str, figure: float, base: str, limit: float, bar: Bar | None) -> Row:
    """One count beside its base's."""
    return Row(name, figure, None if name == base else figure / limit, bar=bar)


async def _count(lengths: list[int]) -> None:
    for producer in _PRODUCERS.values():
        for case in every_case().values():
            await case(partial(producer, 50))  # what is done once is done here
            for chunks in lengths:
                await marked(partial(case, partial(producer, chunks)))


if __name__ == "__main__":
    asyncio.run(_count([int(argument) for argument in sys.argv[1:]]))
