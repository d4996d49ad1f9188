"""What StreamGuard raises, with texts that say what was attempted, in which state, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamguard_core.receipt import Receipt


class StreamGuardError(Exception):
    """Base of everything StreamGuard raises on purpose."""


class UsageError(StreamGuardError):
    """The caller broke the contract (a negative limit, a second reader, a foreign event loop)."""


class ProducerError(StreamGuardError):
    """A producer failed. Producers may raise anything; this one lets them add what a receipt should say."""


class TruncatedStream(ProducerError):
    """The provider's stream ended without its protocol's terminal marker (G13)."""


class CutOffError(StreamGuardError):
    """Something was attempted after the cutoff that needs a live stream."""


class StreamStopped(BaseException):
    """Raised inside of a producer whose stream is over, by a layer that tells its parts to end.

    No `Exception`, so that no retry, no fallback and no `except Exception` of an application goes on for
    a reader who left. A session takes it for the end that it has asked for.
    """


class LedgerError(StreamGuardError):
    """A ledger could not make a record durable. Nothing is lost: `receipt` holds what was to be written."""

    def __init__(self, message: str, receipt: Receipt | None = None) -> None:
        super().__init__(message)
        self.receipt = receipt
