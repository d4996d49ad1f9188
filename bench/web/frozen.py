"""Readers that freeze after ten chunks: what a guard adds in memory, and that a deadline lets all of them go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from http import HTTPStatus
from typing import Any, Final

from bench.harness import Bar, Row, Table
from bench.web.serve import server, state
from streamguard_asgi import ACKNOWLEDGE_HEADER, STREAM_ID_HEADER
from streamguard_testing import RawClient

STALL: Final = 2.0
KILOBYTE: Final = 1024
CASES: Final = {"StreamingResponse": "/starlette", "guarded": "/under/guarded"}
WEIGHED: Final = {"allocated": ["--trace"], "resident": []}


Freeze = Callable[[str, ExitStack], Awaitable[None]]


async def _freeze(url: str, target: str, stack: ExitStack, chunks: int, size: int) -> None:
    """A reader with a small buffer that takes so many chunks, and nothing more."""
    host, port = url.removeprefix("http://").split(":")
    sock, loop = stack.enter_context(socket.socket()), asyncio.get_running_loop()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await loop.sock_connect(sock, (host, int(port)))
    await loop.sock_sendall(sock, f"GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    left = chunks * size
    while left > 0 and (data := await loop.sock_recv(sock, min(left, 4096))):
        left -= len(data)


async def _weigh(path: str, how: str, readers: int, stay: float) -> tuple[float, float]:
    """Kilobytes for each reader soon after they froze, and after some time."""
    target = f"{path}?producer=frozen&size=6&pace=1"
    with server(*WEIGHED[how]) as url, ExitStack() as stack:
        with ExitStack() as first:
            await _freeze(url, target, first, 10, 6)  # what is made once is made here
        before = state(url)[how]
        for _ in range(readers):
            await _freeze(url, target, stack, 10, 6)
        found = []
        for wait in (1.0, stay):
            await asyncio.sleep(wait)
            found.append((state(url)[how] - before) / readers / KILOBYTE)
    return found[0], found[1]


async def _freeze_in_a_full_buffer(url: str, stack: ExitStack) -> None:
    """A reader for whom a `send` waits soon."""
    await _freeze(url, "/under/plain?producer=frozen&size=16384&pace=0", stack, 10, 16384)


async def _freeze_acknowledging(url: str, stack: ExitStack) -> None:
    """A reader that takes ten chunks, says so, and takes nothing more; no `send` waits for it."""
    headers = {ACKNOWLEDGE_HEADER: "1"}
    target = "/under/acknowledged?producer=frozen&size=6&pace=1"
    client = await RawClient.open(url, path=target, headers=headers, receive_buffer=4096)
    stack.callback(client.leave)
    await client.read_head()
    await client.read_until(10)
    path = f"/under/streams/{client.headers[STREAM_ID_HEADER]}/acknowledged/10"
    async with await RawClient.open(url, "POST", path) as telling:
        if await telling.read_head() != HTTPStatus.OK:
            raise RuntimeError(f"an acknowledgement was answered with {telling.status}")


async def _stalled(
    readers: int, freeze: Freeze, *options: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """How the server is before they come, and after all of them were cut off."""
    with server("--stall", str(STALL), *options) as url, ExitStack() as stack:
        before = state(url)
        for _ in range(readers):
            await freeze(url, stack)
        after = state(url)
        for _ in range(60):
            if sum(after["causes"].values()) >= readers and after["sockets"] <= before["sockets"]:
                break
            await asyncio.sleep(0.5)
            after = state(url)
    return before, after


STALLING: Final[tuple[tuple[str, Freeze, list[str]], ...]] = (
    ("while large chunks fill small buffers", _freeze_in_a_full_buffer, ["--small"]),
    ("after they acknowledged ten small chunks", _freeze_acknowledging, []),
)
"""How readers freeze; what of the server is special."""


async def tables(*, quick: bool) -> AsyncIterator[Table]:
    """First what they weigh; then, with a `send` that blocks, what is left of them."""
    readers, stay = (200, 5.0) if quick else (1000, 20.0)
    for how in WEIGHED:
        weights = {name: await _weigh(path, how, readers, stay) for name, path in CASES.items()}
        base, ours = weights.values()
        yield Table(
            f"Memory of {readers:,} readers that froze after ten chunks, {how}",
            "KB/stream",
            (
                *(Row(f"{name}, at once", soon) for name, (soon, _) in weights.items()),
                *(Row(f"{name}, after {stay:g} s", late) for name, (_, late) in weights.items()),
                Row("guarded over unguarded, at once", ours[0] - base[0], bar=Bar(8.0)),
                Row(f"guarded over unguarded, after {stay:g} s", ours[1] - base[1], bar=Bar(8.0)),
            ),
            "A chunk a second goes on being made, and the kernel takes it: no send waits.",
        )
    for what, freeze, options in STALLING:
        yield _left(readers, what, *await _stalled(readers, freeze, *options))


def _left(readers: int, what: str, before: dict[str, Any], after: dict[str, Any]) -> Table:
    stalled = after["causes"].get("CONSUMER_STALLED", 0)
    return Table(
        f"{readers:,} readers that freeze {what}",
        "left",
        (
            Row("streams not cut off as CONSUMER_STALLED", float(readers - stalled), bar=Bar(0)),
            *(
                Row(f"{kind} more than before", float(after[kind] - before[kind]), bar=Bar(0))
                for kind in ("tasks", "sockets", "sessions")
            ),
        ),
        f"consumer_stall={STALL:g}; the readers are still there, and have not closed anything.",
    )
