"""Server CPU per chunk under every ASGI server that is installed: guarded beside raw ASGI, and Starlette's own."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from bench.bars import CASES, MOUNTED, RAW, ROUTE, STARLETTE, served_bars
from bench.harness import Table
from bench.reading import TOGETHER, cpu_per_chunk
from streamguard_testing import ServerProcess

ROOT: Final = Path(__file__).resolve().parents[2]
APPLICATION: Final = "bench.served:application"
MEASURED: Final = {name: CASES[name] for name in (RAW, MOUNTED, STARLETTE, ROUTE)}
_UVICORN: Final = ("uvicorn", "--port", "{port}", "--log-level", "warning", "--no-access-log")
_GUNICORN: Final = ("gunicorn", "--bind", "127.0.0.1:{port}", "--no-control-socket")
SERVERS: Final = {
    "uvicorn (h11)": (*_UVICORN, "--loop", "asyncio", "--http", "h11"),
    "uvicorn (httptools)": (*_UVICORN, "--loop", "uvloop", "--http", "httptools"),
    "hypercorn": ("hypercorn", "--bind", "127.0.0.1:{port}"),
    "daphne": ("daphne", "-p", "{port}", "--access-log", os.devnull),
    "granian": ("granian", "--port", "{port}", "--interface", "asgi", "--no-access-log"),
    "gunicorn (asgi)": (*_GUNICORN, "--worker-class", "asgi"),
    "gunicorn (uvicorn)": (*_GUNICORN, "--worker-class", "uvicorn_worker.UvicornWorker"),
}
"""What stands behind `python -m`."""


def installed(command: tuple[str, ...]) -> bool:
    """Whether a server, its worker included, can be started here."""
    worker = command[-1].partition(".")[0]
    needed = [command[0], *({worker} & {"uvicorn_worker", "uvloop", "httptools"})]
    return all(find_spec(module) is not None for module in needed)


async def tables(*, quick: bool) -> AsyncIterator[Table]:
    """One table per server and kind of arrival; a server that is not installed has none.

    Args:
        quick: fewer rounds.
    """
    for name, command in SERVERS.items():
        if not installed(command):
            print(f"{name} is not installed: pip install --group servers", file=sys.stderr)
            continue
        path = os.pathsep.join(filter(None, (str(ROOT), *sys.path)))
        process = ServerProcess(
            [sys.executable, "-m", *command, APPLICATION],
            cwd=ROOT,
            env={"PYTHONPATH": path},
            ready_timeout=60,
        )
        with process as running:
            for kind, together in TOGETHER.items():
                series = await cpu_per_chunk(
                    running.url, MEASURED, together, rounds=2 if quick else 9, chunks=1000
                )
                rows = series.rows(RAW, served_bars(together))
                rows += (series.compare(ROUTE, STARLETTE, "route against StreamingResponse", 1.05),)
                yield Table(f"{name}, {kind}", "CPU ns/chunk", rows)
