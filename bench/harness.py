"""Measures cases in interleaved rounds, as ratios to a base of the same round."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from bench import callgrind

Run = Callable[[], Awaitable[int]]
"""Runs one case once; returns how many chunks (or streams) went through."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure may be at most. No exit code depends on it: a busy machine is nobody's failure."""

    limit: float
    name: str = ""

    def verdict(self, figure: float) -> str:
        """`met` or `not met`, with the bar."""
        met = "met" if figure <= self.limit else "NOT MET"
        return f"{met} (<= {self.limit:g}{' ' + self.name if self.name else ''})"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    Args:
        name: the case.
        value: the median, in the table's unit.
        ratio: the median of the per-round ratios to the base; None for the base itself and where there is none.
        low: the lowest of them.
        high: the highest of them.
        bar: what `ratio` (or `value`, where there is no ratio) has to meet.
    """

    name: str
    value: float | None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    bar: Bar | None = None

    def judged(self, limit: float) -> Row:
        """The same with a bar."""
        return replace(self, bar=Bar(limit))

    def verdict(self) -> str:
        """The bar's verdict, empty without one."""
        judged = self.value if self.ratio is None else self.ratio
        return self.bar.verdict(judged) if self.bar is not None and judged is not None else ""


@dataclass(frozen=True, slots=True)
class Table:
    """One question and its answers."""

    title: str
    unit: str
    rows: tuple[Row, ...]
    note: str = ""

    def show(self) -> str:
        """The table as text."""
        lines = ["", self.title, f"  {'':38} {self.unit:>12} {'ratio':>7} {'(min-max)':>15}"]
        lines += [_line(row) for row in self.rows]
        lines += [f"  {self.note}"] if self.note else []
        return "\n".join(lines)

    def to_record(self) -> dict[str, Any]:
        """The table as plain data, with `met` where there is a bar."""
        record = asdict(self)
        for row, plain in zip(self.rows, record["rows"], strict=True):
            verdict = row.verdict()
            plain["met"] = verdict.startswith("met") if verdict else None
        return record


def _line(row: Row) -> str:
    value = "-" if row.value is None else f"{row.value:,.{_digits(row.value)}f}"
    ratio = "" if row.ratio is None else f"{row.ratio:.{_digits(row.ratio)}f}x"
    spread = "" if row.low is None or row.high is None else f"({row.low:.2f}-{row.high:.2f})"
    return f"  {row.name:38} {value:>12} {ratio:>7} {spread:>15}  {row.verdict()}".rstrip()


def _digits(value: float) -> int:
    return 2 if abs(value) < 100 else 0


class Series:
    """The figures of some cases, round by round."""

    def __init__(self, figures: Mapping[str, list[float]]) -> None:
        self.figures = figures

    def value(self, name: str) -> float:
        """The median of one case."""
        return statistics.median(self.figures[name])

    def row(self, name: str, base: str | None = None, bar: Bar | None = None) -> Row:
        """One case against another of the same rounds."""
        if base is None or base == name:
            return Row(name, self.value(name), bar=bar)
        pairs = zip(self.figures[name], self.figures[base], strict=True)
        ratios = [figure / other for figure, other in pairs]
        return Row(name, self.value(name), statistics.median(ratios), min(ratios), max(ratios), bar)

    def rows(self, base: str, bars: Mapping[str, Bar]) -> tuple[Row, ...]:
        """Every case against `base`."""
        return tuple(self.row(name, base, bars.get(name)) for name in self.figures)

    def compare(self, ours: str, theirs: str, label: str, limit: float) -> Row:
        """One case against another under a name of its own, with what the ratio may be."""
        return replace(self.row(ours, theirs, Bar(limit)), name=label)

    def difference(self, name: str, base: str, label: str, bar: Bar | None = None) -> Row:
        """How much more one case costs than another: the median of the rounds' differences."""
        pairs = zip(self.figures[name], self.figures[base], strict=True)
        return Row(label, statistics.median(a - b for a, b in pairs), bar=bar)


async def measure(cases: Mapping[str, Run], rounds: int, scale: float = 1.0) -> Series:
    """CPU time of this process per chunk, in nanoseconds times `scale`, in interleaved rounds.

    One round goes over all cases, so that what else the machine does falls on all of them alike.
    """
    figures: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, run in cases.items():
            figure = await _once(run) * scale
            if number:  # the first round only warms up
                figures[name].append(figure)
    return Series(figures)


async def _once(run: Run) -> float:
    gc.collect()
    await asyncio.sleep(0)
    begin = time.process_time_ns()
    chunks = await run()
    return (time.process_time_ns() - begin) / chunks


class Tables(Protocol):
    """What measures."""

    def __call__(self, *, quick: bool, valgrind: bool) -> AsyncIterator[Table]:
        """Every table, as soon as it is there."""


def main(purpose: str | None, tables: Tables) -> int:
    """The command line of every benchmark: measure, and print each table when it is there."""
    parser = argparse.ArgumentParser(description=(purpose or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", action="store_true", help="one JSON array instead of text")
    parser.add_argument(
        "--valgrind",
        action=argparse.BooleanOptionalAction,
        default=callgrind.available(),
        help="count instructions as well; where valgrind is not, they are left out",
    )
    arguments = parser.parse_args()
    return asyncio.run(_show(tables(quick=arguments.quick, valgrind=arguments.valgrind), arguments))


async def _show(tables: AsyncIterator[Table], arguments: argparse.Namespace) -> int:
    records = []
    async for table in tables:
        if arguments.json:
            records.append(table.to_record())
        else:
            print(table.show(), flush=True)
    if arguments.json:
        print(json.dumps(records, indent=1))
    return 0
