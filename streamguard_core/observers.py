"""Hooks that cannot hurt: they see frozen summaries, change nothing, and are removed when they raise."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from streamguard_core.causes import Signal
from streamguard_core.receipt import OpenRecord, Receipt
from streamguard_core.statistics import Statistics

logger = logging.getLogger("streamguard")


class Opened(msgspec.Struct, frozen=True):
    """A stream was opened; its OPEN record is on its way to the ledger."""

    record: OpenRecord


class Flushed(msgspec.Struct, frozen=True):
    """A batch was handed to the consumer by `read_ready()`."""

    statistics: Statistics
    chunks: int


class CutOff(msgspec.Struct, frozen=True):
    """The terminal cause was fixed and the committed count frozen."""

    signal: Signal
    statistics: Statistics


class Sealed(msgspec.Struct, frozen=True):
    """The receipt exists."""

    receipt: Receipt


Notice = Opened | Flushed | CutOff | Sealed
Observer = Callable[[Notice], None]
"""A hook takes one frozen argument and returns nothing."""


class Observers:
    """The observers of one session. Invariant: no notice and no failure of an observer changes an outcome."""

    __slots__ = ("_observers",)

    def __init__(self, observers: tuple[Observer, ...] = ()) -> None:
        self._observers = observers

    def __bool__(self) -> bool:
        return bool(self._observers)

    def notify(self, notice: Notice) -> None:
        """Show `notice` to everyone; drop, with one log line, who raises."""
        for observer in self._observers:
            try:
                observer(notice)
            except Exception as error:
                self._observers = tuple(other for other in self._observers if other is not observer)
                # The type alone: an observer's message might quote what it was shown.
                logger.error(
                    "observer %r raised %s on %s and was removed",
                    getattr(observer, "__qualname__", type(observer).__qualname__),
                    type(error).__name__,
                    type(notice).__name__,
                )
