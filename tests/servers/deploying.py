"""A deploy as a test makes one: a server, readers of endless streams, a signal, and what the ledger says then."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streamguard_ledger import SQLiteLedger, read_receipts, read_records, verify
from streamguard_testing import RawClient, ServerProcess

from .serving import ASGI, WSGI, Server, alive, answers, children, serve, until

STREAMS: Final = 300
GRACE: Final = 20.0
"""What each server is given for its graceful shutdown; a server that waits for streams uses it up."""
PATIENCE: Final = 60.0
_THREADS: Final = {
    "gunicorn-gthread": ("--threads", str(STREAMS + 20)),
    "granian-wsgi": ("--blocking-threads", str(STREAMS + 20), "--backpressure", str(STREAMS + 20)),
    "gunicorn-sync": ("--workers", "4"),
}
"""A WSGI server has a thread for each stream; gunicorn's sync workers are processes with one."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """A guarded application of a framework's under a server.

    Args:
        framework: `starlette` or `django`.
        server: the server.
    """

    framework: str
    server: Server

    def __str__(self) -> str:
        return f"{self.framework}-{self.server}"

    @property
    def streams(self) -> int:
        """How many it can have at once."""
        return 4 if self.server.name == "gunicorn-sync" else STREAMS

    def path(self, name: str) -> str:
        """Of a stream; its view is a sync one under WSGI."""
        return f"/{name}" if self.server.interface == "asgi" else f"/sync/{name}"

    def serve(
        self, folder: Path, *options: str, grace: float | None = None, **env: str
    ) -> ServerProcess:
        """A process that will run it.

        Args:
            folder: for its receipts.
            options: further ones of the server's command line.
            grace: the server's own deadline for open streams, in whole seconds.
            env: further variables of its environment.
        """
        return self._serve(*options, grace=grace, env={"LEDGER": str(folder), **env})

    async def unguarded(self, *options: str) -> int:
        """The exit code of the same server without StreamGuard and without streams."""
        with self._serve(*options, grace=GRACE, env={"GUARD": "off"}) as running:
            await answers(running)
            running.send_signal(signal.SIGTERM)
            return await gone(running)

    def _serve(self, *options: str, grace: float | None, env: dict[str, str]) -> ServerProcess:
        module = "guarded" if self.framework == "starlette" else "deployed"
        name = "app" if self.server.interface == "asgi" else "wsgi"
        threads = _THREADS.get(self.server.name, ())
        return serve(self.server, f"{module}:{name}", *threads, *options, env=env, grace=grace)


STARLETTE: Final = [Deployed("starlette", server) for server in ASGI]
DJANGO: Final = [Deployed("django", server) for server in (*ASGI, *WSGI)]


@contextlib.asynccontextmanager
async def readers(
    server: ServerProcess, count: int, path: str = "/stream"
) -> AsyncIterator[list[RawClient]]:
    """That many readers of endless streams, each of which has read something."""
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in range(count):
            client = await RawClient.open(server.url, path=path, timeout=PATIENCE)
            clients.append(await stack.enter_async_context(client))
        for client in clients:
            assert len(await client.read_until(3)) == 3
        yield clients


async def rest(clients: list[RawClient]) -> list[bytes]:
    """What each reader still gets."""
    return await asyncio.gather(*(client.read_to_end() for client in clients))


async def gone(server: ServerProcess) -> int:
    """The exit code."""
    return await asyncio.to_thread(server.wait, PATIENCE)


async def stands_still(server: ServerProcess) -> None:
    """Wait until `/big` makes no chunk more, from one answer of its application to the next and the next."""
    async with asyncio.timeout(PATIENCE):
        seen: list[bytes] = []
        while len(seen) < 5 or len(set(seen[-5:])) > 1:
            seen.append(await answers(server, "/made"))


def receipts(folder: Path) -> list[dict[str, Any]]:
    """The receipts, as the ledger has them."""
    return list(read_receipts(folder))


def told_why(end: bytes) -> bool:
    """Whether a reader got an `eos` that says `shutdown`, and when to come back."""
    last = end.rpartition(b"event: eos\n")[2]
    return last.startswith(b"retry: ") and b'"category":"shutdown"' in last


async def kill(server: ServerProcess) -> None:
    """SIGKILL the server with all its workers, and wait until none of them holds anything."""
    workers = children(server.pid)
    os.killpg(server.pid, signal.SIGKILL)
    await gone(server)
    await until(lambda: not any(map(alive, workers)), "the workers to be gone")


async def recovered(folder: Path) -> Counter[str]:
    """How many streams have which cause after two starts of the ledger; each stream has one receipt."""
    for _ in range(2):
        SQLiteLedger(folder).close()
    closes = [one for one in read_records(folder) if one.data["kind"] == "CLOSE"]
    found = receipts(folder)
    assert len(closes) == len(found)
    assert verify(folder).ok
    return Counter(one["cause"] for one in found)
