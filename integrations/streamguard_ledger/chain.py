"""Checks one writer's chain row by row: bytes, columns, order and hashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from streamguard_ledger import canonical
from streamguard_ledger.chainfile import Row
from streamguard_ledger.records import VERSION, Kind, Ref, digest

_KINDS: Final = frozenset(kind.value for kind in Kind)

Report = Callable[[int, str], None]
"""Told of every problem: the seq, and what is wrong."""


class Chain:
    """What is known of a chain so far; `feed` it every row, in order.

    A problem is told once and the check goes on, so that one change is one problem or two.
    """

    def __init__(self, log: str, writer: str, report: Report) -> None:
        self.log = log
        self.writer = writer
        self.last = -1
        """Seq of the last row."""
        self.head: str | None = None
        """Hash of the last row's bytes."""
        self.closed = False
        """True after a WRITER_CLOSE."""
        self.newer: int | None = None
        """A version of records that this software does not know, if there is one."""
        self._report = report

    @property
    def end(self) -> Ref:
        """Where the last row is; -1 for a writer that never came to its first."""
        return Ref(self.writer, self.last, self.head or "")

    def feed(self, row: Row) -> dict[str, Any] | None:
        """Check a row; returns its record if it can be believed to be one."""
        gap = row.seq != self.last + 1
        if gap:
            self._report(row.seq, f"rows are missing: the one before is {self.last}")
        if self.closed:
            self._report(row.seq, "follows the end of its writer")
        before, self.last, self.head = self.head, row.seq, digest(row.body)
        if row.hash.hex() != self.head:
            self._report(row.seq, "its bytes are not those that were written")
        try:
            record = canonical.decode(row.body)
        except canonical.NotCanonical as error:
            self._report(row.seq, str(error))
            return None
        if type(record.get("v")) is int and record["v"] > VERSION:
            self.newer = max(self.newer or 0, record["v"])
            return None
        self._check_place(row, record)
        self._check_link(row, record, None if gap else before)
        self.closed = self.closed or record.get("kind") == Kind.WRITER_CLOSE
        return record if record.get("kind") in _KINDS else None

    def _check_place(self, row: Row, record: dict[str, Any]) -> None:
        expected = {
            "v": VERSION,
            "log": self.log,
            "writer": self.writer,
            "seq": row.seq,
            "kind": row.kind,
            "record_id": row.record_id,
        }
        if row.stream_id is not None or row.kind in {Kind.OPEN, Kind.CLOSE}:
            expected["stream_id"] = row.stream_id
        wrong = [name for name, value in expected.items() if record.get(name) != value]
        if wrong:
            self._report(row.seq, f"it says otherwise than its place: {', '.join(wrong)}")
        if row.kind not in _KINDS:
            self._report(row.seq, "its kind is not known")

    def _check_link(self, row: Row, record: dict[str, Any], before: str | None) -> None:
        first = record.get("kind") == Kind.WRITER_OPEN
        if first != (row.seq == 0):
            self._report(row.seq, "a chain starts with WRITER_OPEN, and has no other")
        elif first and "prev" in record:
            self._report(row.seq, "the first record of a chain follows nothing")
        elif before is not None and record.get("prev") != before:
            self._report(row.seq, "it does not follow the record before it")
