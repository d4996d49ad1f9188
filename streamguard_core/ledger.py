"""The interface a store of receipts implements: one record before the provider is called, one after."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

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


class Verification(Protocol):
    """What a ledger found when it verified itself."""

    @property
    def ok(self) -> bool:
        """True when nothing is wrong, not understood or incomplete."""

    @property
    def exit_code(self) -> int:
        """For a command: 0 ok, 1 tampering or damage, 3 incomplete, 4 written by newer software."""

    @property
    def problems(self) -> Sequence[object]:
        """Evidence that something was changed or lost; each one's `str()` says what and where."""

    @property
    def unknown(self) -> Sequence[object]:
        """What newer software wrote, and this one does not understand."""

    @property
    def incomplete(self) -> Sequence[object]:
        """What has no end yet."""

    @property
    def not_checked(self) -> Sequence[object]:
        """What this verification cannot know."""


@runtime_checkable
class ReadableLedger(Ledger, Protocol):
    """A ledger that can be read back and verified: what an adapter needs to show receipts of long ago.

    The plain data of a receipt is that of `plain_receipt` (fields that only the OPEN has come with it), and beside it
    `sealed` (false while there is no receipt) and `records` (where its records stand in the ledger).
    """

    def read_receipts(self, stream_ids: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """One plain dict per stream, of all of them or of those with these ids.

        Raises:
            LedgerError: at the end, when something could not be read.
        """

    def verify(self) -> Verification:
        """Check all of it; changes nothing.

        Raises:
            LedgerError: when it cannot be read at all.
        """


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
