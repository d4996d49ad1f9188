"""Runs cases under valgrind's callgrind, which writes one count of instructions per marked stretch.

`python -m bench.counted SHORT LONG` is the counted side; `instructions()` starts it and reads the counts.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from bench.cases import BARE, Case, Make, every_case, ready, ticking
from bench.harness import Bar, Row, Table

LENGTHS: Final = (500, 2500)
_PRODUCERS: Final = {"hot": ready, "a loop turn before every chunk": ticking}
_TOTAL: Final = re.compile(r"^totals: (\d+)$", re.MULTILINE)


def available() -> bool:
    """True where valgrind is."""
    return shutil.which("valgrind") is not None


def tables(bars: dict[str, dict[str, Bar]]) -> list[Table]:
    """Instructions per chunk of every case: the slope between two lengths, so that set-up falls out."""
    counts = list(_stretches())
    names = list(every_case())
    found = []
    for kind in _PRODUCERS:
        slopes = {name: _slope(counts.pop(0), counts.pop(0)) for name in names}
        base = slopes[BARE]
        rows = tuple(
            Row(
                name,
                slope,
                None if name == BARE else slope / base,
                bar=bars.get(kind, {}).get(name),
            )
            for name, slope in slopes.items()
        )
        found.append(
            Table(f"Instructions, {kind} (callgrind, slope of {LENGTHS})", "per chunk", rows)
        )
    return found


def _slope(short: int, long: int) -> float:
    return (long - short) / (LENGTHS[1] - LENGTHS[0])


def _stretches() -> Iterator[int]:
    """The counts of the marked stretches, in order: everything between two calls of `getppid`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "counts"
        subprocess.run(
            [
                "valgrind",
                "--tool=callgrind",
                f"--callgrind-out-file={out}",
                "--dump-before=getppid",
                sys.executable,
                "-m",
                "bench.counted",
                *map(str, LENGTHS),
            ],
            check=True,
            capture_output=True,
            env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        # The first dump is what came before the first mark; the stretches lie between pairs of marks.
        number = 2
        while (part := Path(f"{out}.{number}")).exists():
            match = _TOTAL.search(part.read_text())
            assert match is not None, "callgrind writes a total"
            yield int(match.group(1))
            number += 2


async def _count(lengths: list[int]) -> None:
    for producer in _PRODUCERS.values():
        for case in every_case().values():
            await case(partial(producer, 50))  # what is done once is done here
            for chunks in lengths:
                await _marked(case, partial(producer, chunks))


async def _marked(case: Case, make: Make) -> None:
    gc.collect()
    gc.disable()
    await asyncio.sleep(0)
    os.getppid()
    await case(make)
    os.getppid()
    gc.enable()


if __name__ == "__main__":
    asyncio.run(_count([int(argument) for argument in sys.argv[1:]]))
