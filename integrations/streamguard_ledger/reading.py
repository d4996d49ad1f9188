"""Reads a ledger: its records one by one, or one receipt per stream; also while it is written."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from streamguard_core import LedgerError
from streamguard_ledger import canonical
from streamguard_ledger.chainfile import INDEXED, connect_reader, is_empty, rows
from streamguard_ledger.folder import Folder, existing
from streamguard_ledger.records import CHAIN_FIELDS

T = TypeVar("T")

_PAGE: Final = 200
_OPENED: Final = f"""
SELECT o.seq, o.stream_id, o.body, c.seq, c.body
FROM record AS o LEFT JOIN record AS c
  ON c.stream_id = o.stream_id AND c.kind = 'CLOSE' AND c.{INDEXED}
WHERE o.kind = 'OPEN' AND o.seq > ?
ORDER BY o.seq LIMIT {_PAGE}
"""  # noqa: S608 - made of constants
_ONLY_CLOSED: Final = f"""
SELECT c.seq, c.stream_id, c.body
FROM record AS c LEFT JOIN record AS o
  ON o.stream_id = c.stream_id AND o.kind = 'OPEN' AND o.{INDEXED}
WHERE c.kind = 'CLOSE' AND o.seq IS NULL AND c.seq > ?
ORDER BY c.seq LIMIT {_PAGE}
"""  # noqa: S608 - made of constants
_SOME: Final = (
    "SELECT seq, stream_id, kind, body FROM record"  # noqa: S608 - made of constants
    f" WHERE {INDEXED} AND stream_id IN ({{}})"
)


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as it stands in a ledger."""

    writer: str
    seq: int
    body: bytes
    """Its exact bytes: what is hashed."""

    @property
    def data(self) -> dict[str, Any]:
        """What it says.

        Raises:
            NotCanonical: when its bytes are damaged.
        """
        return canonical.read(self.body)


def read_records(path: str | os.PathLike[str]) -> Iterator[StoredRecord]:
    """Every record of a ledger: writer by writer in the order of their start, each in its order.

    Args:
        path: the directory that `SQLiteLedger` was given; its process may be writing.

    Raises:
        LedgerError: at once when there is no ledger; at the end when a file could not be read.
    """
    return _Reading(existing(Path(path))).records()


def read_receipts(
    path: str | os.PathLike[str], stream_ids: Collection[str] | None = None
) -> Iterator[dict[str, Any]]:
    """One plain dict per stream: the fields of its receipt, or of its OPEN as long as it is open.

    Beside them stand `sealed` (false while there is no receipt) and `records` (writer and seq of
    the OPEN and the CLOSE). `recovered_from` is there when the receipt was written by a later
    process in the place of one that was killed. `usage.reported` is a string of JSON.

    Args:
        path: the directory that `SQLiteLedger` was given; its process may be writing.
        stream_ids: only those of these streams, found by an index; all by default.

    Raises:
        LedgerError: at once when there is no ledger; at the end when something could not be read.
    """
    reading = _Reading(existing(Path(path)))
    return reading.receipts() if stream_ids is None else reading.receipts_of(stream_ids)


def read_receipt(path: str | os.PathLike[str], stream_id: str) -> dict[str, Any] | None:
    """The receipt of one stream, as `read_receipts` gives it; None when the ledger does not know the stream.

    Args:
        path: the directory that `SQLiteLedger` was given; its process may be writing.
        stream_id: the stream.

    Raises:
        LedgerError: when there is no ledger, or a part of it could not be read.
    """
    return next(read_receipts(path, (stream_id,)), None)


class _Found(NamedTuple):
    writer: str
    seq: int
    body: bytes


class _Reading:
    """One pass over a ledger: what is damaged is passed over, and said at the end."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._writers = folder.writer_ids()
        self._damage: list[str] = []

    def records(self) -> Iterator[StoredRecord]:
        yield from self._each(_records_in)
        self._complain()

    def receipts(self) -> Iterator[dict[str, Any]]:
        # The few receipts that are in another file than their OPEN: of streams whose process was
        # killed, or whose file failed.
        apart = dict(self._each(_only_closed_in))
        for stream_id, opened, closed in self._each(_opened_in):
            elsewhere = apart.pop(stream_id, None)
            yield from self._merged(opened, closed or elsewhere)
        for closed in apart.values():
            yield from self._merged(None, closed)
        self._complain()

    def receipts_of(self, stream_ids: Collection[str]) -> Iterator[dict[str, Any]]:
        wanted = sorted(set(stream_ids))
        for start in range(0, len(wanted), _PAGE):
            found: dict[str, dict[str, _Found]] = {}
            for stream_id, kind, record in self._each(
                partial(_of_streams, wanted[start : start + _PAGE])
            ):
                found.setdefault(stream_id, {})[kind] = record
            for records in found.values():
                yield from self._merged(records.get("OPEN"), records.get("CLOSE"))
        self._complain()

    def _each(self, read: Callable[[str, sqlite3.Connection], Iterator[T]]) -> Iterator[T]:
        """Read one file after the other; what is damaged is noted and passed over."""
        for writer in self._writers:
            try:
                with closing(connect_reader(self._folder.file_of(writer))) as connection:
                    if not is_empty(connection):
                        yield from read(writer, connection)
            except (OSError, sqlite3.Error) as error:
                self._note(writer, error)

    def _merged(self, opened: _Found | None, closed: _Found | None) -> Iterator[dict[str, Any]]:
        """One receipt; nothing when its bytes are damaged."""
        receipt: dict[str, Any] = {}
        places = {}
        for name, found in (("open", opened), ("close", closed)):
            if found is None:
                continue
            try:
                record = canonical.read(found.body)
            except canonical.NotCanonical as error:
                self._note(found.writer, f"record {found.seq}: {error}")
                return
            receipt |= {key: item for key, item in record.items() if key not in CHAIN_FIELDS}
            places[name] = {"writer": found.writer, "seq": found.seq}
        yield receipt | {"sealed": closed is not None, "records": places}

    def _note(self, writer: str, what: object) -> None:
        line = f"{self._folder.file_of(writer)}: {what}"
        if line not in self._damage:
            self._damage.append(line)

    def _complain(self) -> None:
        if self._damage:
            raise LedgerError(
                f"cannot read all of the ledger at {self._folder.path}: {self._damage[0]}"
                f" ({len(self._damage)} problem(s)); run `streamguard verify`, it tells more"
            )


def _records_in(writer: str, connection: sqlite3.Connection) -> Iterator[StoredRecord]:
    for row in rows(connection):
        yield StoredRecord(writer, row.seq, row.body)


def _of_streams(
    stream_ids: Sequence[str], writer: str, connection: sqlite3.Connection
) -> Iterator[tuple[str, str, _Found]]:
    """The records of some streams, with their kind."""
    marks = ",".join("?" * len(stream_ids))
    for seq, stream_id, kind, body in connection.execute(_SOME.format(marks), stream_ids):
        yield stream_id, kind, _Found(writer, seq, body)


def _only_closed_in(writer: str, connection: sqlite3.Connection) -> Iterator[tuple[str, _Found]]:
    """The streams that have a CLOSE in this file and no OPEN."""
    for seq, stream_id, body in _pages(connection, _ONLY_CLOSED):
        yield stream_id, _Found(writer, seq, body)


def _opened_in(
    writer: str, connection: sqlite3.Connection
) -> Iterator[tuple[str, _Found, _Found | None]]:
    """The streams whose OPEN is in this file, with their CLOSE if that is here too."""
    for seq, stream_id, body, close_seq, close_body in _pages(connection, _OPENED):
        closed = None if close_seq is None else _Found(writer, close_seq, close_body)
        yield stream_id, _Found(writer, seq, body), closed


def _pages(connection: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    """Rows of a query behind a seq, a page at a time, so that a live writer is not held up."""
    after = -1
    while page := connection.execute(query, (after,)).fetchall():
        yield from page
        after = page[-1][0]
