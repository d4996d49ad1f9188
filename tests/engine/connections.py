"""Watches the connections that a process holds to one port, from the outside."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import psutil  # type: ignore[import-untyped]


class ConnectionWatch:
    """Counts, all the time, the connections that a process holds to a port.

    Args:
        pid: The process.
        port: The port at the other end, on this machine.
    """

    def __init__(self, pid: int, port: int) -> None:
        self._process = psutil.Process(pid)
        self._port = port
        self._lock = threading.Lock()
        self._changes: list[tuple[float, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def look(self) -> int:
        """Established connections to the port at this moment; also put on record."""
        with self._lock:
            held: int = sum(
                bool(link.raddr) and link.raddr.port == self._port and link.status == "ESTABLISHED"
                for link in self._process.net_connections(kind="tcp")
            )
            if not self._changes or held != self._changes[-1][1]:
                self._changes.append((time.monotonic(), held))
        return held

    def let_go(self, left: Sequence[float]) -> list[float]:
        """Seconds from each leaving, earliest first, until one connection fewer was held.

        Connections do not say whose they are: the first one gone is taken for that of the
        first reader gone. Infinite where the watch ended before.
        """
        ordered = sorted(left)
        return [
            self._first_at_most(len(ordered) - 1 - index, since) - since
            for index, since in enumerate(ordered)
        ]

    def _first_at_most(self, most: int, since: float) -> float:
        """The first instant from `since` on at which no more than `most` were held."""
        for (at, held), (until, _) in itertools.pairwise([*self._changes, (math.inf, 0)]):
            if held <= most and until > since:
                return max(at, since)
        return math.inf

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.look()

    def __enter__(self) -> Self:
        self.look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
