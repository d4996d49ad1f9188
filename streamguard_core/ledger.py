"""The interface a store of receipts implements: one record before the provider is called, one after."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol, runtime_checkable

from streamguard_core.receipt import OpenRecord, Receipt


@runtime_checkable
class Ledger(Protocol):
    """Where records become durable. Both calls return at once; the future resolves when the record is durable.

    Both must be safe to call from any thread. A future that fails carries a `LedgerError`.
    """

    def append_open(self, record: OpenRecord) -> Future[None]:
        """Begin to make an OPEN record durable; the session waits for it before calling the provider."""

    def append_close(self, receipt: Receipt) -> Future[None]:
        """Begin to make a receipt durable; `await session.receipt()` waits for it."""


class MemoryLedger:
    """Keeps records in lists: for tests and for a first look. Nothing survives the process."""

    def __init__(self) -> None:
        self.opened: list[OpenRecord] = []
        self.receipts: list[Receipt] = []

    def append_open(self, record: OpenRecord) -> Future[None]:
        """Keep an OPEN record."""
        self.opened.append(record)
        return _done()

    def append_close(self, receipt: Receipt) -> Future[None]:
        """Keep a receipt."""
        self.receipts.append(receipt)
        return _done()


def _done() -> Future[None]:
    future: Future[None] = Future()
    future.set_result(None)
    return future
