"""What the tests of killed processes read back of a ledger, whatever state it is in."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from streamguard_core import LedgerError
from streamguard_ledger import NotCanonical, read_records


def records_in(path: Path) -> list[dict[str, Any]]:
    """What every record says that can be read."""
    found = []
    with suppress(LedgerError):
        for record in read_records(path):
            with suppress(NotCanonical):
                found.append(record.data)
    return found


def crashed_in(path: Path) -> list[str]:
    """The streams of all CRASHED receipts, each as often as it has one."""
    return sorted(one["stream_id"] for one in records_in(path) if one.get("cause") == "CRASHED")


def recovered_in(path: Path) -> list[dict[str, Any]]:
    """The records that say that a writer was recovered."""
    return [one for one in records_in(path) if one.get("kind") == "WRITER_RECOVERED"]
