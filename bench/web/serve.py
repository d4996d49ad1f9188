"""The measured server, a process of its own: `python -m bench.web.serve PORT [--stall SECONDS] [--small] [--trace]`."""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import uvicorn

from bench.web.apps import Application
from streamguard_testing import ServerProcess

SMALL = 8192
"""The kernel's buffer for a server whose readers freeze: what it swallows is not what is measured."""


@contextlib.contextmanager
def server(*options: str) -> Iterator[str]:
    """The server as a process; its URL."""
    command = [sys.executable, "-m", "bench.web.serve", "{port}", *options]
    root = Path(__file__).resolve().parents[2]
    with ServerProcess(command, cwd=root, ready_timeout=60) as running:
        yield running.url


def state(url: str) -> dict[str, Any]:
    """CPU time, memory, tasks, sockets, sessions, and the causes of the receipts until now."""
    with urlopen(f"{url}/state") as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def main() -> None:
    """Serve until the process is told to go."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--stall", type=float, default=None, help="the middleware's consumer_stall")
    parser.add_argument("--small", action="store_true", help="small buffers in the kernel")
    parser.add_argument("--trace", action="store_true", help="count what is allocated")
    given = parser.parse_args()
    if given.trace:
        tracemalloc.start()
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if given.small:
        # Connections inherit it.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    listening.bind(("127.0.0.1", given.port))
    listening.listen(2048)
    settings: dict[str, Any] = {"log_level": "critical", "access_log": False, "lifespan": "off"}
    config = uvicorn.Config(Application(given.stall), ws="none", **settings)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
