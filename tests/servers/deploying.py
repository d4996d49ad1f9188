"""A deploy as a test makes one: readers of endless streams, a signal, and what the ledger says then."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from streamguard_ledger import SQLiteLedger, read_receipts, read_records, verify
from streamguard_testing import RawClient, ServerProcess

from .serving import Server, alive, answers, children, serve, until

STREAMS: Final = 300
GRACE: Final = 20.0
"""What each server is given for its graceful shutdown; a server that waits for streams uses it up."""
PATIENCE: Final = 60.0


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


async def unguarded(server: Server, *options: str, application: str = "guarded:app") -> int:
    """The exit code of the same server without StreamGuard and without streams."""
    with serve(server, application, *options, env={"GUARD": "off"}, grace=GRACE) as running:
        await answers(running)
        running.send_signal(signal.SIGTERM)
        return await gone(running)


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
