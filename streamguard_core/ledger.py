"""The interface a store of receipts implements: one record before the provider is called, one after."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol, runtime_checkable

from streamguard_core.errors import UsageError
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


def check_ledger(value: Ledger) -> Ledger:
    """Return `value` if it can keep records.

    Raises:
        UsageError: when it cannot; a path is no ledger yet.
    """
    if not hasattr(value, "append_open"):
        raise UsageError(
            f"ledger of type {type(value).__name__} was given; a ledger has append_open() and append_close(),"
            " such as streamguard_ledger.SQLiteLedger(path)"
        )
    return value


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
