"""Compares the table of receipts with the ledger, which is the evidence: what differs, is strange, or is missing."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from streamguard_core import LedgerError, ReadableLedger
from streamguard_django.conf import option
from streamguard_django.models import StreamReceipt
from streamguard_django.rows import row_from

_PAGE: Final = 500
_KEPT: Final = 1000
"""Longest list of what is wrong; the rest is counted."""
_SETTLING_US: Final = 60_000_000
"""A receipt that was sealed within a minute may still be on its way into the table."""
_PLACE: Final = ("writer", "seq")
_T = TypeVar("_T")


class NoLedger(LedgerError):
    """There is nothing to compare with."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not what the ledger says, or a receipt without a row."""

    stream_id: str
    what: str

    def __str__(self) -> str:
        return f"stream {self.stream_id}: {self.what}"


@dataclass(slots=True)
class Matching:
    """What a comparison found.

    Attributes:
        rows: rows in the table.
        matched: rows that say what the ledger says.
        different: rows that say something else, or of which the ledger knows nothing; the first thousand.
        different_count: how many there are.
        missing: receipts of the ledger that have no row; the first thousand.
        missing_count: how many there are.
        settling: receipts without a row that were sealed within the last minute.
    """

    rows: int = 0
    matched: int = 0
    different: list[Difference] = field(default_factory=list)
    different_count: int = 0
    missing: list[Difference] = field(default_factory=list)
    missing_count: int = 0
    settling: int = 0

    def note_different(self, stream_id: str, what: str) -> None:
        """A row is wrong."""
        self.different_count += 1
        if len(self.different) < _KEPT:
            self.different.append(Difference(stream_id, what))

    def note_missing(self, stream_id: str) -> None:
        """A receipt has no row."""
        self.missing_count += 1
        if len(self.missing) < _KEPT:
            self.missing.append(
                Difference(stream_id, "its receipt is in the ledger and not in the table")
            )

    def to_data(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {
            "rows": self.rows,
            "matched": self.matched,
            "different": self.different_count,
            "missing": self.missing_count,
            "settling": self.settling,
            "differences": [str(one) for one in (*self.different, *self.missing)],
        }


def readable_ledger() -> ReadableLedger:
    """The ledger of the settings, if it can be read back.

    Raises:
        NoLedger: when none is set, or that one cannot.
    """
    ledger = option("LEDGER")
    if ledger is None:
        raise NoLedger(
            'STREAMGUARD has no "LEDGER", so there is nothing that rows could be compared with; set one, such as'
            " the dotted path of a streamguard_ledger.SQLiteLedger"
        )
    if not isinstance(ledger, ReadableLedger):
        raise NoLedger(
            f"the ledger of STREAMGUARD, a {type(ledger).__name__}, cannot be read back: it has no read_receipts()"
            " and verify(), as streamguard_ledger.SQLiteLedger has"
        )
    return ledger


def differences(row: StreamReceipt, stored: Mapping[str, Any] | None) -> str | None:
    """What is different between a row and its receipt in the ledger; None when they say the same.

    Args:
        row: as it stands in the table.
        stored: what the ledger gave for its stream; None when it knows nothing of it.
    """
    if stored is None:
        return "the ledger knows nothing of it"
    if not stored.get("sealed"):
        return "the ledger has no receipt of it: the stream is open there"
    right = row_from(stored)
    names = [
        one.attname
        for one in StreamReceipt._meta.concrete_fields  # noqa: SLF001 - Django's interface
        if one.attname not in (*_PLACE, "record")
        and getattr(row, one.attname) != getattr(right, one.attname)
    ]
    names += _different_fields(row, right)
    if row.writer and (row.writer, row.seq) != (right.writer, right.seq):
        names.append("writer, seq")
    return f"not what the ledger says in {', '.join(names)}" if names else None


def match(ledger: ReadableLedger) -> Matching:
    """Compare all rows with all receipts; changes nothing.

    Raises:
        LedgerError: when the ledger could not be read.
    """
    found = Matching()
    newest = time.time_ns() // 1000 - _SETTLING_US
    for page, rows in pages(ledger):
        for stored in page:
            stream_id = str(stored["stream_id"])
            row = rows.get(stream_id)
            if row is not None:
                _note(found, row, stored)
            elif _sealed_us(stored) > newest:
                found.settling += 1
            else:
                found.note_missing(stream_id)
    found.rows = StreamReceipt.objects.count()
    if found.rows > found.matched + found.different_count:
        _find_strange(found, ledger)
    return found


def pages(
    ledger: ReadableLedger,
) -> Iterator[tuple[list[dict[str, Any]], dict[str, StreamReceipt]]]:
    """The ledger's receipts, page by page, with the rows that there are of them.

    Raises:
        LedgerError: when something of the ledger could not be read.
    """
    sealed = (stored for stored in ledger.read_receipts() if stored.get("sealed"))
    for page in _paged(sealed):
        yield page, StreamReceipt.objects.in_bulk([str(stored["stream_id"]) for stored in page])


def _note(found: Matching, row: StreamReceipt, stored: Mapping[str, Any]) -> None:
    what = differences(row, stored)
    if what is None:
        found.matched += 1
    else:
        found.note_different(row.pk, what)


def _find_strange(found: Matching, ledger: ReadableLedger) -> None:
    """The rows of which the ledger has no receipt."""
    ids = StreamReceipt.objects.order_by("pk").values_list("pk", flat=True)
    for page in _paged(ids.iterator(_PAGE)):
        known = {one["stream_id"]: one for one in ledger.read_receipts(page)}
        for stream_id in page:
            stored = known.get(stream_id)
            if stored is None:
                found.note_different(stream_id, "the ledger knows nothing of it")
            elif not stored.get("sealed"):
                found.note_different(
                    stream_id, "the ledger has no receipt of it: the stream is open there"
                )


def _different_fields(row: StreamReceipt, right: StreamReceipt) -> list[str]:
    """Where the whole receipt in a row is another one than the ledger's."""
    try:
        mine = row.data
    except ValueError as error:
        return [f"record (it is damaged: {error})"]
    theirs = right.data
    # What a ledger has no bytes for it leaves out, and says so.
    left_out = {str(path).partition(".")[0] for path in theirs.get("left_out", ())}
    names = sorted(({*mine, *theirs} - {"left_out"}) - left_out)
    return [f"record.{name}" for name in names if mine.get(name) != theirs.get(name)]


def _sealed_us(stored: Mapping[str, Any]) -> int:
    sealed = stored.get("sealed_us")
    return sealed if type(sealed) is int else 0


def _paged(items: Iterable[_T]) -> Iterator[list[_T]]:
    iterator = iter(items)
    while page := list(itertools.islice(iterator, _PAGE)):
        yield page


def by_stream(ledger: ReadableLedger, stream_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the ledger says of some streams.

    Raises:
        LedgerError: when it could not be read.
    """
    return {str(one["stream_id"]): one for one in ledger.read_receipts(stream_ids)}
