"""Server CPU per chunk through a real uvicorn: guarded responses beside raw ASGI and the frameworks' own.

python -m bench.asgi [--quick] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from bench.harness import Bar, Row, Series, Table
from streamguard_testing import ServerProcess

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


async def _read(host: str, port: int, target: str) -> int:
    """Read one stream to its end; returns its bytes."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    size = 0
    while data := await reader.read(1 << 16):
        size += len(data)
    writer.close()
    return size


async def _read_all(url: str, path: str, chunks: int, together: int) -> None:
    host, port = url.removeprefix("http://").split(":")
    target = f"{path}?chunks={chunks}&together={together}"
    sizes = await asyncio.gather(*(_read(host, int(port), target) for _ in range(CONNECTIONS)))
    if min(sizes) < chunks * len("token "):
        raise RuntimeError(f"{path} sent {min(sizes)} bytes for {chunks} chunks; the run is void")


def measure(url: str, together: int, rounds: int, chunks: int) -> Series:
    """CPU nanoseconds per chunk, in interleaved rounds."""
    figures: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(rounds + 1):
        for name, path in CASES.items():
            begin = cpu(url)
            asyncio.run(_read_all(url, path, chunks, together))
            if number:  # the first round only warms up
                figures[name].append((cpu(url) - begin) / (chunks * CONNECTIONS))
    return Series(figures)


def tables(rounds: int, chunks: int) -> Iterator[Table]:
    """One table of costs per kind of arrival, and one of comparisons."""
    with server() as url:
        for kind, together in TOGETHER.items():
            series = measure(url, together, rounds, chunks)
            bar = Bar(1.25 if together == 1 else 0.5, "of raw")
            rows = series.rows(RAW, {MOUNTED: bar})
            yield Table(f"Through uvicorn, {kind}", "CPU ns/chunk", rows)
            yield Table(f"Against its peers, {kind}", "CPU ns/chunk", tuple(_against(series)))


def _against(series: Series) -> Iterator[Row]:
    pairs = (
        (ROUTE, STARLETTE, 1.05, "route against StreamingResponse"),
        (MOUNTED, STARLETTE, 1.0, "mounted against StreamingResponse"),
        (ROUTE, SSE, 0.30, "route against sse-starlette"),
        (ROUTE, FASTAPI, 0.065, "route against FastAPI's SSE"),
    )
    for ours, theirs, limit, label in pairs:
        row = series.row(ours, theirs, Bar(limit))
        yield Row(label, row.value, row.ratio, row.low, row.high, row.bar)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    arguments = parser.parse_args()
    found = tables(2, 500) if arguments.quick else tables(5, 2000)
    if arguments.json:
        print(json.dumps([table.to_record() for table in found]))
    else:
        for table in found:
            print(table.show(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
