"""More chunks than one send for each of them can deliver: what arrives, and how late."""

from __future__ import annotations

import asyncio
import re
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
SUSTAINED_MS: Final = 50.0
"""A load is sustained if all but a percent arrives, 99 of 100 chunks within this time."""
EACH, TOGETHER = "/each", "/under/guarded"
_FRAME: Final = re.compile(rb"data: (\d+)\n\n")
_STEP: Final = 1.1
_AFTER: Final = 0.1
"""How long is listened after the last chunk was due, in seconds."""


class _Reader(asyncio.Protocol):
    """Keeps what came, and when: it is looked at afterwards."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.parts: list[bytes] = []
        self.times: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.times.append(time.monotonic_ns())
        self.parts.append(data)

    def delays(self) -> list[float]:
        """Milliseconds between the instant at which a chunk was due and that at which it had come."""
        ends = list(accumulate(map(len, self.parts)))
        found = _FRAME.finditer(b"".join(self.parts))
        came = ((self.times[bisect_right(ends, one.end() - 1)], int(one[1])) for one in found)
        return [(at - due) / 1e6 for at, due in came]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run brought."""

    delivered: float
    """The share of the chunks that came until shortly after the last one was due."""
    p99_ms: float

    @property
    def sustained(self) -> bool:
        """True when nothing piled up."""
        return self.delivered > 0.99 and self.p99_ms < SUSTAINED_MS


async def run(url: str, path: str, load: float, seconds: float) -> Outcome:
    """Ask for `load` chunks a second over all streams."""
    host, port = url.removeprefix("http://").split(":")
    rate = load / STREAMS
    target = f"{path}?producer=due&rate={rate:.3f}&seconds={seconds}"
    request = f"GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    opened = [
        loop.create_connection(lambda: _Reader(request), host, int(port)) for _ in range(STREAMS)
    ]
    readers = [reader for _, reader in await asyncio.gather(*opened)]
    await asyncio.sleep(LEAD + seconds + _AFTER)
    for reader in readers:
        reader.transport.abort()
    delays = [delay for reader in readers for delay in reader.delays()]
    await asyncio.sleep(0.5)  # the server sees them leave
    return Outcome(len(delays) / (int(rate * seconds) * STREAMS), quantiles(delays, n=100)[98])


async def sustained(url: str, path: str, seconds: float) -> float:
    """The highest load, in steps of a tenth, that is delivered as it comes."""
    load = 10_000.0
    while (await run(url, path, load * _STEP, seconds)).sustained:
        load *= _STEP
    return load


async def tables(*, quick: bool) -> AsyncIterator[Table]:
    """Which load one send for each chunk sustains; then both ways under 1.6 times that."""
    rounds, seconds = (2, 2.0) if quick else (5, 4.0)
    outcomes: dict[str, list[Outcome]] = {EACH: [], TOGETHER: []}
    with server() as url:
        await run(url, EACH, 4000, 1.0)
        load = median([await sustained(url, EACH, seconds / 2) for _ in range(3)])
        for _ in range(rounds):
            for path, found in outcomes.items():
                found.append(await run(url, path, LOAD * load, seconds))
    delivered = {path: median(one.delivered for one in found) for path, found in outcomes.items()}
    yield Table(
        f"Delivered of {LOAD * load:,.0f} chunks a second, {LOAD} times what one send each sustains",
        "% missing",
        (
            Row("one send for each chunk", 100 * (1 - delivered[EACH])),
            Row("guarded", 100 * (1 - delivered[TOGETHER]), bar=Bar(5.0)),
        ),
        f"{STREAMS} streams over one process. Chunks count that came within {_AFTER:g} s of the last one's time.",
    )
    late = {path: [one.p99_ms for one in found] for path, found in outcomes.items()}
    series = Series({"one send for each chunk": late[EACH], "guarded": late[TOGETHER]})
    rows = (
        series.row("one send for each chunk"),
        series.row("guarded", "one send for each chunk", Bar(0.05)),
    )
    yield Table("How late they came, the 99th of 100", "ms", rows)
