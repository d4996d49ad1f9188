"""Bounds and deadlines of a stream, validated where they are given."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from streamguard_core.errors import UsageError

NANOSECONDS: Final = 1_000_000_000


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much a stream may hold (G4).

    Args:
        speculative_buffer_limit: chunks produced and not yet committed, at most.
        max_inflight_commits: chunks committed and not yet consumed, at most.
        max_buffer_bytes: UTF-8 bytes in both buffers together, at most.

    Raises:
        UsageError: when a bound is not a whole number of at least 1.
    """

    speculative_buffer_limit: int = 8
    max_inflight_commits: int = 16
    max_buffer_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(
                    f"{name}={value!r} was given when the session was built;"
                    " a bound is a whole number of at least 1"
                )


class Deadlines(msgspec.Struct, frozen=True, kw_only=True):
    """How long each phase may last, in seconds; None means without limit.

    Args:
        connect: until the producer reports its connection, or its first chunk where it cannot.
        first_token: until the first chunk with content.
        idle: longest silence between two chunks while the producer has room to emit.
            Only content resets it: keep-alives and empty chunks do not.
        total: the whole stream.
        consumer_stall: longest time a consumer may hold what it was handed.
        close: how long a producer may take to end after it was told to; then `unconfirmed`.
        finalisation: how long a consumer may take, after the cutoff, to read what was committed;
            then the receipt is sealed without it.

    Raises:
        UsageError: when a timeout is not a positive finite number.
    """

    connect: float | None = None
    first_token: float | None = None
    idle: float | None = None
    total: float | None = None
    consumer_stall: float | None = None
    close: float = 5.0
    finalisation: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None:
                check_seconds(f"deadlines.{name}", value)

    @property
    def timed(self) -> bool:
        """True when any deadline runs while the stream is live."""
        return any(
            value is not None
            for value in (
                self.connect,
                self.first_token,
                self.idle,
                self.total,
                self.consumer_stall,
            )
        )


def check_seconds(name: str, value: float) -> float:
    """Return `value` if it is a positive finite number of seconds.

    Args:
        name: what it was given as, for the error.
        value: what was given.

    Raises:
        UsageError: when it is not.
    """
    given: object = value
    if (
        not isinstance(given, int | float)
        or isinstance(given, bool)
        or not math.isfinite(given)
        or given <= 0
    ):
        raise UsageError(f"{name}={value!r} was given; it is a positive number of seconds, or None")
    return value


def to_ns(seconds: float) -> int:
    """A timeout in seconds as nanoseconds: the one place where floats become instants."""
    return round(seconds * NANOSECONDS)


DEFAULT_LIMITS: Final = Limits()
DEFAULT_DEADLINES: Final = Deadlines()
"""Shared: an open session must not pay for values it did not choose."""
