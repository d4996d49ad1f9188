"""Copies every receipt into the table, and never at the cost of a stream."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from django.db import (
    InterfaceError,
    OperationalError,
    close_old_connections,
    connections,
    router,
    transaction,
)

from streamguard_core import Receipt, UsageError
from streamguard_django.conf import option
from streamguard_django.models import StreamReceipt
from streamguard_django.rows import row_of

_LOG: Final = logging.getLogger("streamguard_django")
_BATCH: Final = 200
_MAX_WAITING: Final = 10_000
_EXIT_S: Final = 5.0
_DOWN: Final = (OperationalError, InterfaceError)
"""What is the database's own trouble, not that of one row."""
_AGAIN: Final = "the ledger has it: run `manage.py streamguard_mirror` when the database is well"


class Mirror:
    """Writes rows: in the transaction of the calling thread where there is one, else in a thread of its own.

    So no stream waits for the database, on an event loop or off it; many receipts that come at once, as in a shutdown,
    are one transaction; and what is read inside a transaction (a `TestCase`) is seen in it. When the database is down,
    that is logged, and the ledger still has the receipts.
    """

    def __init__(self) -> None:
        self._paused = 0
        self._reset()
        alive = weakref.ref(self)

        def in_child() -> None:
            mirror = alive()
            if mirror is not None:
                mirror._reset()  # noqa: SLF001 - of this module

        os.register_at_fork(after_in_child=in_child)

    def receive(self, *, receipt: Receipt, **_: Any) -> None:
        """Take a receipt: the receiver of `stream_sealed`."""
        if self._paused or not option("MIRROR"):
            return
        try:
            row = row_of(receipt)
        except UsageError as error:
            _LOG.error("cannot mirror the receipt of stream %.64s: %s", receipt.stream_id, error)
            return
        if _in_transaction():
            _write([row])
        else:
            self._put(row)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until what was taken has been written, or could not be; False when that took too long.

        Args:
            timeout: longest wait, in seconds.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Mirror nothing meanwhile: for tests that look at receipts instead of rows."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def _reset(self) -> None:
        """As in a new process: threads, and what waited for them, stay with the parent."""
        self._waiting: deque[StreamReceipt] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._thread: threading.Thread | None = None

    def _put(self, row: StreamReceipt) -> None:
        with self._changed:
            if len(self._waiting) >= _MAX_WAITING:
                _LOG.error(
                    "cannot mirror the receipt of stream %s: too many wait; %s", row.pk, _AGAIN
                )
                return
            self._waiting.append(row)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="streamguard-mirror", daemon=True
                )
                self._thread.start()
                atexit.register(self.flush, _EXIT_S)
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                self._busy = True
                rows = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            _look_after_connections()
            _write(rows)
            _look_after_connections()


def _look_after_connections() -> None:
    """As Django does around each request; a database that is down then must not end the thread."""
    try:
        close_old_connections()
    except Exception as error:  # noqa: BLE001 - as for `_write`, which says what could not be written
        _LOG.warning("the mirror's connections: %s", type(error).__name__)


def _in_transaction() -> bool:
    """True when this thread is in one, and may write; never on an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return bool(connections[router.db_for_write(StreamReceipt)].in_atomic_block)
    return False


def _write(rows: Sequence[StreamReceipt]) -> None:
    """Insert what is not there yet; says in the log what could not be written."""
    try:
        _insert(rows)
    except Exception as error:  # noqa: BLE001 - a driver may raise what it likes, and no stream may pay for it
        if len(rows) > 1 and not isinstance(error, _DOWN):
            for row in rows:
                _write([row])
            return
        _LOG.error(
            "cannot mirror %d receipt(s), the first of stream %s: %s; %s",
            len(rows),
            rows[0].pk,
            f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            _advice(),
        )


def _insert(rows: Sequence[StreamReceipt]) -> None:
    alias = router.db_for_write(StreamReceipt)
    with transaction.atomic(using=alias):
        StreamReceipt.objects.using(alias).bulk_create(rows, ignore_conflicts=True)


def _advice() -> str:
    """What to do: migrate where the table is missing."""
    try:
        connection = connections[router.db_for_write(StreamReceipt)]
        if StreamReceipt._meta.db_table not in connection.introspection.table_names():  # noqa: SLF001
            return (
                "its table is missing: run `manage.py migrate streamguard`, or switch the mirror off with"
                ' STREAMGUARD["MIRROR"] = False'
            )
    except Exception:  # noqa: BLE001, S110 - it is down
        pass
    return _AGAIN
