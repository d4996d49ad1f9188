"""The thread that writes: drains the inbox into transactions, and tells whoever waits."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Final

from streamguard_core import LedgerError, OpenRecord, Receipt
from streamguard_ledger.folder import FileLock, Folder
from streamguard_ledger.inbox import Inbox, Item
from streamguard_ledger.recovery import recover
from streamguard_ledger.scribe import Scribe

CLOSED: Final = "the ledger is closed and takes no more records; close it after the last stream"
_BROKEN: Final = "the ledger's writing thread failed, see the log; restart the process"


class Writer:
    """What streams talk to; may be called from any thread.

    `busy` is held while the thread is inside SQLite. A fork waits for it, so that no child is born
    with one of SQLite's mutexes locked for ever. The database itself is known to the thread's own
    frames alone: a child, in which that thread does not exist, can neither use it nor close it.

    Raises:
        LedgerError: when no file can be written.
    """

    def __init__(self, folder: Folder, limit: int, *, recovers: bool) -> None:
        self.busy = threading.Lock()
        self._locks: list[FileLock] = []
        self._inbox = Inbox(limit)
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(folder, recovers, ready), name="streamguard-ledger", daemon=True
        )
        self._thread.start()
        ready.result()

    def append(self, record: OpenRecord | Receipt) -> Future[None]:
        """Begin to make a record durable."""
        item = Item(record)
        self._inbox.put(item)
        return item.future

    def close(self) -> None:
        """Write what was appended, end the chain, and let go of the file."""
        self._inbox.stop(CLOSED)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def forget(self) -> None:
        """In a forked child: leave everything to the parent, and close what was inherited."""
        for lock in self._locks:
            lock.forget()

    def _run(self, folder: Folder, recovers: bool, ready: Future[None]) -> None:
        try:
            with self.busy:
                scribe = self._start(folder, recovers)
        except BaseException as error:  # noqa: BLE001 - the constructor raises it
            ready.set_exception(error)
            return
        ready.set_result(None)
        try:
            while batch := self._inbox.take():
                self._write(scribe, batch)
            with self.busy:
                scribe.close()
        except BaseException:
            self._fail_all()
            scribe.abandon()
            raise

    def _start(self, folder: Folder, recovers: bool) -> Scribe:
        scribe = Scribe(folder, self._locks)
        if recovers:
            try:
                recover(folder, scribe.file())
            except BaseException:
                scribe.close()
                raise
        return scribe

    def _write(self, scribe: Scribe, batch: list[Item]) -> None:
        outcomes: list[LedgerError | None] = [LedgerError(_BROKEN, item.receipt) for item in batch]
        try:
            with self.busy:
                outcomes = scribe.write(batch)
        finally:
            # Not under the lock: whoever waited may do anything now, a fork too.
            for item, outcome in zip(batch, outcomes, strict=True):
                item.settle(outcome)

    def _fail_all(self) -> None:
        """Nothing waits for ever for a thread that is gone."""
        self._inbox.stop(_BROKEN)
        while batch := self._inbox.take():
            for item in batch:
                item.fail(_BROKEN)
