"""What a session costs in process: per chunk, per stream, per open stream, and from a disconnect to the close.

python -m bench.core [--quick] [--json] [--no-valgrind]
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from typing import Final

from bench import callgrind, cases, counted, leaving, memory
from bench.cases import BARE, DEQUE, INLINED, PULL, PUSH, Case
from bench.harness import Bar, Row, Run, Table, main, measure

HOT_BARS: Final = {PULL: Bar(3.2), PUSH: Bar(7.0, "about, or no slower than deque + Future")}
STREAM_BARS: Final = {PULL: Bar(1.3)}
INSTRUCTION_BARS: Final = {
    "hot": {PULL: Bar(3.1)},
    "a loop turn before every chunk": {PULL: Bar(1.15)},
}
FLAT: Final = (PULL, "pull, deadlines", PUSH, "one gate, async for")


def _hot(case: Case, chunks: int) -> Run:
    async def run() -> int:
        await case(partial(cases.ready, chunks))
        return chunks

    return run


def _streams(case: Case, streams: int, chunks: int) -> Run:
    async def run() -> int:
        make = partial(cases.ticking, chunks)
        await asyncio.gather(*(case(make) for _ in range(streams)))
        return streams * chunks

    return run


def _repeated(case: Case, streams: int, chunks: int) -> Run:
    """One stream after the other; counted in chunks."""

    async def run() -> int:
        for _ in range(streams):
            await case(partial(cases.ready, chunks))
        return streams * chunks

    return run


async def hot(rounds: int, chunks: int) -> Table:
    """A producer and a reader that never wait."""
    series = await measure(_each(lambda case: _hot(case, chunks)), rounds)
    rows = (*series.rows(BARE, HOT_BARS), *_against_deque(series.compare))
    return Table(f"Hot loop, one stream of {chunks:,} chunks", "CPU ns/chunk", rows)


async def many(rounds: int, streams: int, chunks: int) -> Table:
    """As servers run them."""
    series = await measure(_each(lambda case: _streams(case, streams, chunks)), rounds)
    rows = (*series.rows(BARE, STREAM_BARS), *_against_deque(series.compare))
    title = f"{streams:,} concurrent streams of {chunks} chunks, a loop turn before every chunk"
    note = "Opening and sealing every session is in it."
    return Table(title, "CPU ns/chunk", rows, note)


def _against_deque(compare: Callable[[str, str, str, float], Row]) -> Iterator[Row]:
    yield compare(PUSH, DEQUE, "push against deque + Future", 1.0)
    yield compare(PUSH, INLINED, "push against the same, inlined", 1.0)


def _each(run: Callable[[Case], Run]) -> Mapping[str, Run]:
    return {name: run(case) for name, case in cases.every_case().items()}


async def flat(rounds: int) -> Table:
    """Whether a chunk of a long stream costs more than one of a short stream."""
    rows = []
    for name in FLAT:
        case = cases.OURS[name]
        runs = {"1,000": _repeated(case, 16, 1000), "16,000": _repeated(case, 1, 16_000)}
        series = await measure(runs, rounds)
        rows.append(series.compare("16,000", "1,000", name, 1.05))
    return Table(
        "Flat: one stream of 16,000 chunks against 16 of 1,000", "CPU ns/chunk", tuple(rows)
    )


async def opening(rounds: int, streams: int) -> Table:
    """A stream of one chunk, over the bare generator's; no ledger."""
    shown = {BARE: cases.bare, PULL: cases.pull, PUSH: cases.push, DEQUE: cases.deque_future}
    runs = {name: _repeated(case, streams, 1) for name, case in shown.items()}
    series = await measure(runs, rounds, scale=0.001)
    rows = (
        series.row(BARE),
        series.difference(PULL, BARE, "open and seal over bare, pull", Bar(20)),
        series.difference(PUSH, BARE, "open and seal over bare, push"),
        series.difference(DEQUE, BARE, "deque + Future over bare, no receipt"),
    )
    return Table("Opening and sealing a session", "CPU us/stream", rows)


async def tables(*, quick: bool, valgrind: bool) -> AsyncIterator[Table]:
    """Everything, table by table."""
    rounds = 3 if quick else 9
    yield await memory.table(400 if quick else 2000)
    yield await hot(rounds, 5_000 if quick else 20_000)
    yield await many(min(rounds, 4), *((200, 50) if quick else (1000, 200)))
    yield await flat(rounds)
    yield await opening(rounds, 200 if quick else 500)
    yield await leaving.table()
    if valgrind and callgrind.available():
        for table in counted.tables(INSTRUCTION_BARS):
            yield table


if __name__ == "__main__":
    raise SystemExit(main(__doc__, tables))
