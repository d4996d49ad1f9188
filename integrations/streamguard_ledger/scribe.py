"""Writes batches of records: one transaction each, and a new file when the old one fails."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from typing import Final

from streamguard_core import LedgerError, OpenRecord, UsageError
from streamguard_ledger.chainfile import PRIMARY, ChainFile
from streamguard_ledger.folder import FileLock, Folder
from streamguard_ledger.inbox import Item
from streamguard_ledger.records import Ref, close_draft, open_draft, writer_close_draft

_LOG: Final = logging.getLogger(__name__)


class Scribe:
    """Lives in the writing thread and nowhere else: a forked child must never touch its database.

    Invariant: a record is acknowledged only after the transaction that holds it is on the disk.

    Args:
        folder: the ledger.
        locks: where the locks are kept that a forked child inherits and has to forget.

    Raises:
        LedgerError: when no file can be written.
    """

    def __init__(self, folder: Folder, locks: list[FileLock]) -> None:
        self._folder = folder
        self._locks = locks
        self._file: ChainFile | None = self._create()
        self._failed: list[ChainFile] = []
        self._opened: dict[str, Ref] = {}
        """Where the OPEN of every stream is that has no receipt yet."""

    def file(self) -> ChainFile:
        """The file to be written; a new one when the last one failed.

        Raises:
            LedgerError: when there can be none.
        """
        if self._file is None:
            self._file = self._create()
        return self._file

    def write(self, batch: Sequence[Item]) -> list[LedgerError | None]:
        """Make a batch durable; says for each record what went wrong, or None."""
        staged: dict[str, Ref] = {}
        try:
            file = self.file()
            with file.batch():
                outcomes = [self._insert(file, item, staged) for item in batch]
        except LedgerError as error:
            return [LedgerError(str(error), item.receipt) for item in batch]
        except sqlite3.Error as error:
            message = self._failure(error, len(batch))
            return [LedgerError(message, item.receipt) for item in batch]
        self._opened |= staged
        for item, outcome in zip(batch, outcomes, strict=True):
            if outcome is None and item.receipt is not None:
                self._opened.pop(item.record.stream_id, None)
        return outcomes

    def close(self) -> None:
        """End the chain in order, and let go of every file."""
        if self._file is not None:
            try:
                with self._file.batch():
                    self._file.insert(writer_close_draft(len(self._opened)))
            except sqlite3.Error as error:
                # Every acknowledged record is there; the next start will note that the end is not.
                _LOG.warning("cannot write the last record of %s: %s", self._file.path, error)
            self._file.close()
        for file in self._failed:
            file.close()
        self._locks.clear()

    def abandon(self) -> None:
        """Let go of every file as it is, after a failure; the streams are still this process's."""
        for file in filter(None, [self._file, *self._failed]):
            file.abandon()

    def _create(self) -> ChainFile:
        try:
            file = ChainFile.create(self._folder)
        except (OSError, sqlite3.Error) as error:
            raise LedgerError(
                f"cannot write a new file in {self._folder.writers}: {error};"
                " give a directory on a local disk with space that this process may write"
            ) from error
        self._locks.append(file.lock)
        return file

    def _insert(self, file: ChainFile, item: Item, staged: dict[str, Ref]) -> LedgerError | None:
        record = item.record
        stream_id = record.stream_id
        try:
            if isinstance(record, OpenRecord):
                staged[stream_id] = file.insert(open_draft(record))
            else:
                opened = staged.get(stream_id) or self._opened.get(stream_id)
                file.insert(close_draft(record, opened))
        except UsageError as error:
            return LedgerError(str(error), item.receipt)
        return None

    def _failure(self, error: sqlite3.Error, records: int) -> str:
        """Decide what to do after a transaction failed, and say it.

        A full disk leaves the file as it was. After any other failure nobody knows what of the
        last pages is on the disk (a failed fsync may report success next time), so the chain goes
        on in a new file; the old one stays as it is, and is recovered after the process has ended.
        """
        assert self._file is not None
        path = self._file.path
        if getattr(error, "sqlite_errorcode", 0) & PRIMARY == sqlite3.SQLITE_FULL:
            advice = "free space there; the ledger goes on as soon as there is some"
        else:
            advice = "check that disk; the ledger goes on in a new file if it can"
            self._failed.append(self._file)
            self._file = None
        _LOG.error("cannot make %d record(s) durable in %s: %s", records, path, error)
        return f"cannot make {records} record(s) durable in {path}: {error}; {advice}"
