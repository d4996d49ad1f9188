"""Closes what processes left open that are gone: every such stream gets one CRASHED receipt.

Whoever recovers a writer holds that writer's lock from before it looks until what it wrote is
durable. So two processes never recover the same writer at once, and whoever comes after one that
was killed half-way finds its receipts, and writes the others.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from streamguard_core import LedgerError
from streamguard_ledger.chain import Chain
from streamguard_ledger.chainfile import (
    ChainFile,
    connect_owner,
    connect_reader,
    find,
    integrity,
    is_damage,
    is_empty,
    rows,
)
from streamguard_ledger.folder import FileLock, Folder
from streamguard_ledger.records import Kind, Ref, crashed_draft, writer_recovered_draft

_LOG: Final = logging.getLogger(__name__)
_BATCH: Final = 256


def recover(folder: Folder, file: ChainFile) -> None:
    """Close the open streams of all writers that are gone, in the chain of a new one.

    Raises:
        LedgerError: when the receipts cannot be written. A writer whose file cannot be read is
            logged and left as it is.
    """
    locks: list[FileLock] = []
    try:
        gone = list(_gone(folder, file.writer, locks))
        _drop_closed_elsewhere(folder, gone)
        for left in gone:
            _write(file, left)
            left.lock.settle()
    except (OSError, sqlite3.Error) as error:
        raise LedgerError(
            f"cannot write what is recovered from processes that are gone to {file.path}: {error};"
            " free space there, or check that disk, and start again"
        ) from error
    finally:
        for lock in locks:
            lock.release()


@dataclass(slots=True)
class _Left:
    """What a writer left behind."""

    lock: FileLock
    chain: Chain
    problems: list[str] = field(default_factory=list)
    open: dict[str, tuple[Ref, dict[str, Any]]] = field(default_factory=dict)

    def note(self, record: dict[str, Any]) -> None:
        """Follow which streams are open."""
        stream_id = record.get("stream_id")
        if not isinstance(stream_id, str):
            return
        if record["kind"] == Kind.OPEN:
            self.open[stream_id] = self.chain.end, record
        else:
            self.open.pop(stream_id, None)

    @property
    def damage(self) -> str | None:
        """What is wrong with the writer's file, in short."""
        if not self.problems:
            return None
        return f"{len(self.problems)} problem(s), the first: {self.problems[0]}"


def _gone(folder: Folder, own: str, locks: list[FileLock]) -> Iterator[_Left]:
    """Lock what can be locked, and look at what nobody has recovered yet."""
    for writer in folder.writer_ids():
        if writer == own:
            continue
        path = folder.file_of(writer)
        try:
            lock = FileLock.take(folder.lock_of(writer))
            if lock is None:
                continue
            locks.append(lock)
            left = None if lock.settled else _examine(folder, writer, lock)
        except (OSError, sqlite3.Error) as error:
            _LOG.error("cannot recover %s: %s", path, error)
            continue
        if left is not None and _is_recoverable(left, path):
            yield left


def _examine(folder: Folder, writer: str, lock: FileLock) -> _Left:
    """Check a file and its chain, and find out which streams it leaves open.

    Raises:
        sqlite3.Error: when it cannot be read now, be it damaged or not.
    """
    problems: list[str] = []
    chain = Chain(folder.log, writer, lambda seq, what: problems.append(f"record {seq}: {what}"))
    left = _Left(lock, chain, problems)
    try:
        with closing(connect_owner(folder.file_of(writer))) as connection:
            if is_empty(connection):
                return left
            problems += integrity(connection)
            for row in rows(connection):
                record = chain.feed(row)
                if record is not None:
                    left.note(record)
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        problems.append(str(error))
    return left


def _is_recoverable(left: _Left, path: Path) -> bool:
    """Say what is wrong with a file; false where nothing can be done about it."""
    if left.chain.newer is not None:
        _LOG.error("cannot recover %s: newer software wrote it; start that one", path)
        return False
    if left.damage is None:
        return True
    _LOG.error("%s is damaged, %s; `streamguard verify` tells more", path, left.damage)
    return left.chain.head is not None


def _drop_closed_elsewhere(folder: Folder, gone: list[_Left]) -> None:
    """Forget the streams whose receipt another writer holds, as a successor or a recoverer."""
    if not any(left.open for left in gone):
        return
    for writer in folder.writer_ids():
        wanted = [stream_id for left in gone for stream_id in left.open]
        try:
            with closing(connect_reader(folder.file_of(writer))) as connection:
                closed = find(connection, Kind.CLOSE, wanted)
        except (OSError, sqlite3.Error) as error:
            _LOG.error("cannot look for receipts in %s: %s", folder.file_of(writer), error)
            continue
        for row in closed:
            for left in gone:
                left.open.pop(row.stream_id or "", None)


def _write(file: ChainFile, left: _Left) -> None:
    """Write the receipts of a writer's open streams, and then where it ended."""
    drafts = [crashed_draft(record, ref) for ref, record in left.open.values()]
    drafts.append(writer_recovered_draft(left.chain.end, len(drafts), left.damage))
    for start in range(0, len(drafts), _BATCH):
        with file.batch():
            for draft in drafts[start : start + _BATCH]:
                file.insert(draft)
