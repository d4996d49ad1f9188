"""Server CPU per chunk through a real uvicorn: guarded responses beside raw ASGI and the frameworks' own.

python -m bench.asgi [--quick] [--json] [--no-valgrind]
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from bench import callgrind
from bench.bars import CASES, RAW, SERVED_NOTE, comparisons, served_bars
from bench.harness import Series, Table, main
from bench.reading import read
from streamguard_testing import ServerProcess

TOGETHER: Final = {"a loop turn before every chunk": 1, "16 chunks arrive together": 16}
CONNECTIONS: Final = 16


@contextmanager
def server() -> Iterator[str]:
    """Uvicorn with `bench/served.py` under uvicorn, on loopback."""
    root = Path(__file__).resolve().parent.parent
    with ServerProcess.uvicorn(
        "bench.served:application", "--log-level", "warning", "--no-access-log", cwd=root
    ) as running:
        yield running.url


def cpu(url: str) -> int:
    """CPU time of the server so far, in nanoseconds."""
    with urlopen(f"{url}/cpu") as answer:
        return int(answer.read())


async def _read_all(url: str, path: str, chunks: int, together: int) -> None:
    target = f"{path}?chunks={chunks}&together={together}"
    sizes = await asyncio.gather(*(read(url, target) for _ in range(CONNECTIONS)))
    if min(sizes) < chunks * len("token "):
        raise RuntimeError(f"{path} sent {min(sizes)} bytes for {chunks} chunks; the run is void")


async def measure(url: str, together: int, rounds: int, chunks: int) -> Series:
    """CPU nanoseconds per chunk, in interleaved rounds."""
    figures: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(rounds + 1):
        for name, path in CASES.items():
            begin = cpu(url)
            await _read_all(url, path, chunks, together)
            if number:  # the first round only warms up
                figures[name].append((cpu(url) - begin) / (chunks * CONNECTIONS))
    return Series(figures)


async def tables(*, quick: bool, valgrind: bool) -> AsyncIterator[Table]:
    """One table per kind of arrival: through a server, then by instructions."""
    rounds, chunks = (2, 500) if quick else (5, 2000)
    with server() as url:
        for kind, together in TOGETHER.items():
            series = await measure(url, together, rounds, chunks)
            rows = series.rows(RAW, served_bars(together))
            rows += tuple(comparisons(series.compare, peers=together > 1))
            yield Table(f"Through uvicorn, {kind}", "CPU ns/chunk", rows, SERVED_NOTE)
    if valgrind and callgrind.available():
        from bench import cycle

        for table in cycle.tables():
            yield table


if __name__ == "__main__":
    raise SystemExit(main(__doc__, tables))
