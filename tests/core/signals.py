"""What the tests of a shutdown share: something that lives, and handlers that are put back."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import Future

from streamguard_core import Cause, MemoryLedger, Receipt

BOUND = 10.0
HARMLESS = signal.SIGURG
"""By default it does nothing, so what a process does by default can be looked at from inside."""


class Stream:
    """Something that lives: says when it was ended."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []
        self.ended = threading.Event()

    def terminate(self, cause: Cause, detail: str = "") -> None:
        """Note it."""
        self.causes.append(cause)
        self.ended.set()


class SlowLedger(MemoryLedger):
    """Receipts become durable when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.writing: list[Future[None]] = []

    def append_close(self, receipt: Receipt) -> Future[None]:
        """Begin."""
        self.writing.append(Future())
        return self.writing[-1]
