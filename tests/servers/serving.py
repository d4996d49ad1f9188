"""Every real server under one roof: how it is started with an application, and asked to go.

```python
with serve(SERVERS["granian"], "plain:app", env={"LEDGER": folder}) as server:
    async with await RawClient.open(server.url, path="/stream") as client:  # streamguard_testing
        await client.read_until(3)
        client.leave(Leave.RESET)        # RST; Leave.CLOSE is FIN
    server.send_signal(signal.SIGTERM)
    code = server.wait(10)               # its own exit code; negative: died of that signal
```

The application is a module of `tests/servers/apps`, or of any folder given as `folder`. A server has
one worker, so whatever the application keeps in its process is there for every request. What must
come out of the process is written to files whose paths go in by `env`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from streamguard_testing import RawClient, ServerProcess

APPS: Final = Path(__file__).resolve().parent / "apps"
READY: Final = 60.0
"""A server on a machine that others share may take long to start."""


@dataclass(frozen=True, slots=True)
class Server:
    """One way to run a server.

    Args:
        name: For test ids.
        interface: `asgi` or `wsgi`.
        command: What stands between `python -m` and the application; the port is `{port}`.
        grace: The option that bounds its graceful shutdown, up to the seconds; None: it has none.
        modules: What must be installed for it.
    """

    name: str
    interface: str
    command: tuple[str, ...]
    modules: tuple[str, ...]
    grace: str | None = None

    def __str__(self) -> str:
        return self.name


_UVICORN = ("uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--no-access-log")
_HYPERCORN = ("hypercorn", "--bind", "127.0.0.1:{port}")
_DAPHNE = ("daphne", "-b", "127.0.0.1", "-p", "{port}", "--access-log", "/dev/null")
_GRANIAN = ("granian", "--host", "127.0.0.1", "--port", "{port}", "--interface")
_GUNICORN = ("gunicorn", "--bind", "127.0.0.1:{port}", "--no-control-socket", "--worker-class")
_WORKERS = ("gunicorn", "uvicorn", "uvicorn_worker")
_GRACEFUL = "--graceful-timeout="

_ALL: Final = (
    Server(
        "uvicorn-h11",
        "asgi",
        (*_UVICORN, "--http", "h11", "--loop", "asyncio"),
        ("uvicorn", "h11"),
        "--timeout-graceful-shutdown=",
    ),
    Server(
        "uvicorn-httptools",
        "asgi",
        (*_UVICORN, "--http", "httptools", "--loop", "uvloop"),
        ("uvicorn", "httptools", "uvloop"),
        "--timeout-graceful-shutdown=",
    ),
    Server("hypercorn", "asgi", _HYPERCORN, ("hypercorn",), _GRACEFUL),
    Server("daphne", "asgi", _DAPHNE, ("daphne",)),
    Server("granian", "asgi", (*_GRANIAN, "asgi"), ("granian",), "--workers-kill-timeout="),
    Server("gunicorn-asgi", "asgi", (*_GUNICORN, "asgi"), ("gunicorn",), _GRACEFUL),
    Server(
        "gunicorn-uvicorn",
        "asgi",
        (*_GUNICORN, "uvicorn_worker.UvicornWorker"),
        _WORKERS,
        _GRACEFUL,
    ),
    Server("gunicorn-sync", "wsgi", (*_GUNICORN, "sync"), ("gunicorn",), _GRACEFUL),
    Server(
        "gunicorn-gthread",
        "wsgi",
        (*_GUNICORN, "gthread", "--threads", "16"),
        ("gunicorn",),
        _GRACEFUL,
    ),
    Server("granian-wsgi", "wsgi", (*_GRANIAN, "wsgi"), ("granian",), "--workers-kill-timeout="),
)
SERVERS: Final = {server.name: server for server in _ALL}
ASGI: Final = [server for server in _ALL if server.interface == "asgi"]
WSGI: Final = [server for server in _ALL if server.interface == "wsgi"]


def serve(
    server: Server,
    application: str,
    *options: str,
    env: Mapping[str, str] | None = None,
    folder: Path = APPS,
    grace: float | None = None,
) -> ServerProcess:
    """Return a process that will run `application`; entering it waits until it listens.

    Skips the test where the server is not installed.

    Args:
        server: Which.
        application: `module:name`, in `folder`.
        options: Further options of its command line.
        env: Further variables of its environment.
        folder: Where the application's module is.
        grace: The server's own deadline for streams that are open at SIGTERM, in whole seconds;
            for a server that has one.
    """
    for module in server.modules:
        pytest.importorskip(module)
    if grace is not None and server.grace is not None:
        options = (*options, f"{server.grace}{grace:g}")
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return ServerProcess(
        [sys.executable, "-m", *server.command, *options, application],
        cwd=folder,
        env={"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(env or {})},
        ready_timeout=READY,
    )


async def answers(server: ServerProcess, path: str = "/", *, seconds: float = READY) -> bytes:
    """Ask for `path` until it is answered, and return the body.

    A server may take connections before its worker has loaded the application (gunicorn, granian).

    Raises:
        TimeoutError: When no answer came in time.
    """
    give_up = time.monotonic() + seconds
    while True:
        try:
            client = await RawClient.open(server.url, path=path, timeout=seconds)
            async with client:
                if await client.read_head() == 200:
                    return await client.read_to_end()
        except OSError:
            pass
        if time.monotonic() > give_up:
            raise TimeoutError(f"{path} was not answered:\n{server.output()[-2000:]}")
        await asyncio.sleep(0.05)


async def until(holds: Callable[[], object], what: str, *, seconds: float = 30.0) -> None:
    """Look at a condition that another process makes true until it holds.

    Raises:
        TimeoutError: When it does not hold in time; says what was waited for.
    """
    give_up = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > give_up:
            raise TimeoutError(f"waited {seconds:g} s in vain for {what}")
        await asyncio.sleep(0.02)


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that still run: a server's workers. Linux only."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except FileNotFoundError:
        return []
    return [int(child) for child in text.split()]


def alive(pid: int) -> bool:
    """Whether the process still runs. One that has ended and was not waited for does not. Linux only."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"
