"""The bounded queue between the streams and the thread that writes."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import Final

from streamguard_core import LedgerError, OpenRecord, Receipt

MAX_BATCH: Final = 512
"""Records of one transaction: beyond this, a larger one makes everybody wait and is no faster."""

_PART: Final = 1024
_TAG: Final = 128


class Item:
    """A record on its way to the disk, and the future of whoever waits for it."""

    __slots__ = ("future", "record", "weight")

    def __init__(self, record: OpenRecord | Receipt) -> None:
        self.record = record
        self.weight = _weigh(record)
        """About how many bytes it holds."""
        self.future: Future[None] = Future()
        # Waiting may be given up (a cancelled task); the record is written all the same.
        self.future.set_running_or_notify_cancel()

    @property
    def receipt(self) -> Receipt | None:
        """The receipt, if this is one: whoever waits gets it back when it cannot be written."""
        return self.record if isinstance(self.record, Receipt) else None

    def settle(self, error: LedgerError | None) -> None:
        """Tell whoever waits."""
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)

    def fail(self, message: str) -> None:
        """Tell whoever waits that it was not written, and give a receipt back."""
        self.settle(LedgerError(message, self.receipt))


class Inbox:
    """First in, first out, and never anything dropped.

    When it is full, an OPEN stays outside with its future unresolved, so that its stream waits
    before it costs anything. A receipt always gets in: its stream exists already.

    Invariant: the two records of a stream stay in order.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._queue: deque[Item] = deque()
        self._outside: dict[str, Item] = {}
        self._refusal: str | None = None
        self._stopped = False
        # Re-entrant: the collector may close a forgotten ledger while this thread is in here.
        self._changed = threading.Condition(threading.RLock())

    def put(self, item: Item) -> None:
        """Take a record in, or let it wait outside, or fail its future: the ledger is closed."""
        with self._changed:
            refusal = self._refusal
            if refusal is None:
                self._place(item)
                self._changed.notify()
        if refusal is not None:
            item.fail(refusal)

    def take(self) -> list[Item]:
        """Wait for records and take what is there, up to a batch; nothing after the end."""
        with self._changed:
            while not self._queue and not self._stopped:
                self._changed.wait()
            batch = [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]
            self._bytes -= sum(item.weight for item in batch)
            while self._outside and self._bytes < self._limit:
                self._admit(self._outside.pop(next(iter(self._outside))))
            return batch

    def stop(self, refusal: str) -> None:
        """Refuse what comes from now on; what is there can still be taken."""
        with self._changed:
            self._refusal = self._refusal or refusal
            self._stopped = True
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """How many OPEN records wait outside."""
        return len(self._outside)

    def _place(self, item: Item) -> None:
        stream_id = item.record.stream_id
        earlier = self._outside.pop(stream_id, None)
        if earlier is not None:
            self._admit(earlier)
        elif isinstance(item.record, OpenRecord) and self._bytes >= self._limit:
            self._outside[stream_id] = item
            return
        self._admit(item)

    def _admit(self, item: Item) -> None:
        self._queue.append(item)
        self._bytes += item.weight


def _weigh(record: OpenRecord | Receipt) -> int:
    parts = 1 if isinstance(record, OpenRecord) else 4 + len(record.attempts) + len(record.history)
    return _PART * parts + _TAG * len(record.tags)
