"""What the page shows beside the answers: live statistics, and receipts from the ledger."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from weakref import WeakSet

from streamguard_core import Receipt, StreamSession, SyncStreamSession
from streamguard_core.totals import Sum
from streamguard_ledger import read_receipts

SHOWN = 30
"""Receipts in the list."""


class Statistics:
    """Counts the streams of this process. Unknown is never zero: a sum says how many numbers it lacks."""

    def __init__(self) -> None:
        self._running: WeakSet[StreamSession | SyncStreamSession] = WeakSet()
        self._ended: Counter[str] = Counter()
        self._output = Sum()
        self._prevented = Sum()

    def began(self, session: StreamSession | SyncStreamSession) -> None:
        """A stream runs from now on."""
        self._running.add(session)

    def ended(self, receipt: Receipt) -> None:
        """A stream has ended."""
        self._ended[str(receipt.category)] += 1
        self._output.add(receipt.output.value)
        self._prevented.add(receipt.prevented.upper)

    def now(self) -> dict[str, Any]:
        """The figures, for the page."""
        running = [session for session in self._running if session.sealed is None]
        return {
            "running": len(running),
            "chunks": sum(session.statistics().produced for session in running),
            "ended": dict(self._ended),
            "output": str(self._output),
            "prevented": str(self._prevented),
        }


def newest_receipts(ledger: Path) -> list[dict[str, Any]]:
    """The latest receipts of a ledger, newest first."""
    return sorted(read_receipts(ledger), key=_opened, reverse=True)[:SHOWN]


def _opened(receipt: dict[str, Any]) -> int:
    opened_us: int = receipt["opened_us"]
    return opened_us
