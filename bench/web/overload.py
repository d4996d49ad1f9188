"""More chunks than one send for each of them can deliver: what arrives, and how late."""

from __future__ import annotations

import asyncio
import re
import select
import socket
import time
from bisect import bisect_right
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import accumulate
from statistics import median, quantiles
from typing import Final

from bench.harness import Bar, Row, Series, Table
from bench.web.apps import LEAD
from bench.web.serve import server

STREAMS: Final = 100
LOAD: Final = 1.6
"""Times what one send for each chunk sustains."""
FLOOD: Final = 300_000
"""Chunks a second that no server in Python sends one by one."""
EACH, TOGETHER = "/each", "/under/guarded"
_FRAME: Final = re.compile(rb"data: (\d+)\n\n")
_MOST: Final = 1 << 18
_AFTER: Final = 0.1
"""How long is listened after the last chunk was due, in seconds."""


class _Reader:
    """Keeps what came over one connection, and when: it is looked at afterwards."""

    def __init__(self, host: str, port: int, request: bytes) -> None:
        self.sock = socket.create_connection((host, port))
        self.sock.sendall(request)
        self.sock.setblocking(False)
        self._parts: list[bytes] = []
        self._times: list[int] = []

    def take(self) -> bool:
        """Read what is there; False when the server has closed."""
        data = self.sock.recv(_MOST)
        self._times.append(time.monotonic_ns())
        self._parts.append(data)
        return bool(data)

    def delays(self) -> list[float]:
        """Milliseconds between the instant at which a chunk was due and that at which it had come."""
        ends = list(accumulate(map(len, self._parts)))
        found = _FRAME.finditer(b"".join(self._parts))
        came = ((self._times[bisect_right(ends, one.end() - 1)], int(one[1])) for one in found)
        return [(at - due) / 1e6 for at, due in came]


def _read(readers: list[_Reader], seconds: float) -> float:
    """Read from all of them for so long; the share of it that this thread was busy.

    Nothing but the kernel's own calls: what reads must not be what the server waits for.
    """
    poll = select.epoll()
    by_number = {reader.sock.fileno(): reader for reader in readers}
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    end, busy = time.monotonic() + seconds, time.thread_time()
    while (left := end - time.monotonic()) > 0:
        for number, _ in poll.poll(left):
            if not by_number[number].take():
                poll.unregister(number)
    poll.close()
    return (time.thread_time() - busy) / seconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run brought."""

    delivered: float
    """The share of the chunks that came until shortly after the last one was due."""
    p99_ms: float
    busy: float
    """The share of the time that the readers worked: near 1, they are what was measured."""


async def run(url: str, path: str, load: float, seconds: float) -> Outcome:
    """Ask for `load` chunks a second over all streams."""
    host, port = url.removeprefix("http://").split(":")
    rate = load / STREAMS
    target = f"{path}?producer=due&rate={rate:.3f}&seconds={seconds}"
    request = f"GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
    readers = [_Reader(host, int(port), request) for _ in range(STREAMS)]
    busy = await asyncio.to_thread(_read, readers, LEAD + seconds + _AFTER)
    for reader in readers:
        reader.sock.close()
    delays = [delay for reader in readers for delay in reader.delays()]
    await asyncio.sleep(0.5)  # the server sees them leave
    return Outcome(
        len(delays) / (int(rate * seconds) * STREAMS), quantiles(delays, n=100)[98], busy
    )


async def sustained(url: str, path: str, seconds: float) -> float:
    """How many chunks a second come when far more are due: no more than that can be sustained."""
    found = await run(url, path, FLOOD, seconds)
    return found.delivered * FLOOD * seconds / (seconds + _AFTER)


async def tables(*, quick: bool) -> AsyncIterator[Table]:
    """Which load one send for each chunk sustains; then both ways under 1.6 times that."""
    rounds, seconds = (3, 3.0) if quick else (7, 4.0)
    outcomes: dict[str, list[Outcome]] = {EACH: [], TOGETHER: []}
    with server() as url:
        await run(url, EACH, 4000, 1.0)
        load = median([await sustained(url, EACH, seconds / 2) for _ in range(5)])
        for _ in range(rounds):
            for path, found in outcomes.items():
                found.append(await run(url, path, LOAD * load, seconds))
    busy = [one.busy for found in outcomes.values() for one in found]
    delivered = {path: median(one.delivered for one in found) for path, found in outcomes.items()}
    yield Table(
        f"Delivered of {LOAD * load:,.0f} chunks a second, {LOAD} times what one send each sustains",
        "% missing",
        (
            Row("one send for each chunk", 100 * (1 - delivered[EACH])),
            Row("guarded", 100 * (1 - delivered[TOGETHER]), bar=Bar(5.0)),
        ),
        f"{STREAMS} streams over one process, {seconds:g} s. Chunks count that came within {_AFTER:g} s of the last"
        f" one's time. The readers were busy for {max(busy):.0%} of it: near 100 % they are what was measured.",
    )
    late = {path: [one.p99_ms for one in found] for path, found in outcomes.items()}
    series = Series({"one send for each chunk": late[EACH], "guarded": late[TOGETHER]})
    rows = (
        series.row("one send for each chunk"),
        series.row("guarded", "one send for each chunk", Bar(0.05)),
    )
    yield Table("How late they came, the 99th of 100", "ms", rows)
