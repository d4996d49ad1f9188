"""The embedded ledger: a directory in which every process writes a SQLite file of its own."""

from __future__ import annotations

import os
import sqlite3
import threading
import warnings
import weakref
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from streamguard_core import LedgerError, OpenRecord, Receipt, UsageError
from streamguard_ledger.folder import prepare
from streamguard_ledger.inbox import Item
from streamguard_ledger.reading import read_receipt, read_receipts
from streamguard_ledger.report import VerifyReport
from streamguard_ledger.supported import OLDEST_SQLITE
from streamguard_ledger.verifying import verify
from streamguard_ledger.writer import CLOSED, Writer

DEFAULT_QUEUE_BYTES: Final = 16 * 1024 * 1024


class SQLiteLedger:
    """Makes OPEN records and receipts durable in a directory on a local disk.

    One thread writes, in transactions that take whatever has gathered; a future resolves when the
    transaction that holds its record is on the disk. Any number of processes may use one directory:
    each has a file of its own. Streams that were open when a process was killed are closed as
    CRASHED by the next one that starts. A forked child writes its own file from its first record.

    >>> with SQLiteLedger("receipts") as ledger:  # doctest: +SKIP
    ...     session = StreamSession(producer=producer, ledger=ledger)

    Args:
        path: the directory; it is made (mode 0700) if need be. Not on a network file system.
        max_queue_bytes: about how much may wait for the disk. Beyond it, streams wait to be
            opened; a receipt always gets in, and nothing is ever dropped.

    Raises:
        LedgerError: when the directory cannot be written; says why and what to do.
        UsageError: when `max_queue_bytes` is not positive.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, max_queue_bytes: int = DEFAULT_QUEUE_BYTES
    ) -> None:
        if max_queue_bytes <= 0:
            raise UsageError(
                f"SQLiteLedger(max_queue_bytes={max_queue_bytes}) leaves no room for any record;"
                " give a positive number of bytes"
            )
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise LedgerError(
                f"this Python's SQLite is {sqlite3.sqlite_version}, and the ledger needs 3.37 or"
                " newer (STRICT tables); use a newer Python or system library"
            )
        self.path = Path(path).absolute()
        """The directory of the ledger."""
        self._folder = prepare(self.path)
        self._limit = max_queue_bytes
        self._starting = threading.Lock()
        self._closed = False
        self._writer: Writer | None = Writer(self._folder, max_queue_bytes, recovers=True)
        # Also when the process ends without close(): what was appended is written, the chain ended.
        self._finalizer = weakref.finalize(self, self._writer.close)
        _follow_forks(self)

    @property
    def log(self) -> str:
        """The ledger's own id, which every record repeats."""
        return self._folder.log

    def append_open(self, record: OpenRecord) -> Future[None]:
        """Begin to make an OPEN record durable; the provider is called after its future resolved.

        The future fails with `LedgerError` when it cannot be written; the stream must not start.
        """
        return self._append(record)

    def append_close(self, receipt: Receipt) -> Future[None]:
        """Begin to make a receipt durable.

        The future fails with `LedgerError` when it cannot be written; `.receipt` holds it then.
        """
        return self._append(receipt)

    def read_receipts(self, stream_ids: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """One plain dict per stream, of all processes that wrote here; see the function `read_receipts`."""
        return read_receipts(self.path, stream_ids)

    def read_receipt(self, stream_id: str) -> dict[str, Any] | None:
        """That of one stream; None when the ledger does not know it."""
        return read_receipt(self.path, stream_id)

    def verify(self) -> VerifyReport:
        """Check all of the ledger; see the function `verify`."""
        return verify(self.path)

    def close(self) -> None:
        """Write what was appended, end the chain in order, and let go of the file. Idempotent."""
        self._closed = True
        writer = self._writer
        if writer is not None:
            writer.close()
        self._finalizer.detach()

    def __enter__(self) -> SQLiteLedger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SQLiteLedger {self.path} {'closed' if self._closed else 'open'}>"

    def __del__(self) -> None:
        finalizer = getattr(self, "_finalizer", None)
        if finalizer is not None and finalizer.alive:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2, source=self)

    def _append(self, record: OpenRecord | Receipt) -> Future[None]:
        writer = self._writer
        if writer is None:  # this process was forked, and writes its first record
            try:
                writer = self._start_in_child()
            except LedgerError as error:
                item = Item(record)
                item.fail(str(error))
                return item.future
        return writer.append(record)

    def _start_in_child(self) -> Writer:
        with self._starting:
            if self._closed:
                raise LedgerError(CLOSED)
            if self._writer is None:
                # Recovery is the parent's: it would open the parent's own file, which SQLite
                # does not allow after a fork.
                self._writer = Writer(self._folder, self._limit, recovers=False)
                self._finalizer = weakref.finalize(self, self._writer.close)
            return self._writer

    def _before_fork(self) -> None:
        """Wait until the thread is outside of SQLite, so that no child inherits its mutexes."""
        self._starting.acquire()
        if self._writer is not None:
            self._writer.busy.acquire()

    def _after_fork_in_parent(self) -> None:
        if self._writer is not None:
            self._writer.busy.release()
        self._starting.release()

    def _after_fork_in_child(self) -> None:
        self._finalizer.detach()
        self._starting = threading.Lock()
        if self._writer is not None:
            self._writer.forget()
            self._writer = None


def _follow_forks(ledger: SQLiteLedger) -> None:
    """Have a ledger told of forks for as long as it exists."""
    alive = weakref.ref(ledger)
    told: list[SQLiteLedger] = []

    def before() -> None:
        found = alive()
        if found is not None:
            found._before_fork()  # noqa: SLF001 - of this module
            told.append(found)

    def in_parent() -> None:
        if told:
            told.pop()._after_fork_in_parent()  # noqa: SLF001

    def in_child() -> None:
        if told:
            told.pop()._after_fork_in_child()  # noqa: SLF001

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)
