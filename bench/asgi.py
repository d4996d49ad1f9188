"""Server CPU per chunk through a real uvicorn: guarded responses beside raw ASGI and the frameworks' own.

python -m bench.asgi [--quick] [--json] [--no-valgrind]
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import callgrind
from bench.bars import CASES, RAW, SERVED_NOTE, comparisons, served_bars
from bench.harness import Table, main
from bench.reading import TOGETHER, cpu_per_chunk
from streamguard_testing import ServerProcess


@contextmanager
def server() -> Iterator[str]:
    """Uvicorn with `bench/served.py` under uvicorn, on loopback."""
    root = Path(__file__).resolve().parent.parent
    with ServerProcess.uvicorn(
        "bench.served:application", "--log-level", "warning", "--no-access-log", cwd=root
    ) as running:
        yield running.url


async def tables(*, quick: bool, valgrind: bool) -> AsyncIterator[Table]:
    """One table per kind of arrival: through a server, then by instructions."""
    rounds, chunks = (2, 500) if quick else (5, 2000)
    with server() as url:
        for kind, together in TOGETHER.items():
            series = await cpu_per_chunk(url, CASES, together, rounds=rounds, chunks=chunks)
            rows = series.rows(RAW, served_bars(together))
            rows += tuple(comparisons(series.compare, peers=together > 1))
            yield Table(f"Through uvicorn, {kind}", "CPU ns/chunk", rows, SERVED_NOTE)
    if valgrind and callgrind.available():
        from bench import cycle

        for table in cycle.tables():
            yield table


if __name__ == "__main__":
    raise SystemExit(main(__doc__, tables))
