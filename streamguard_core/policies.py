"""What a disconnect, which is only intent, turns into: cancel, grace or drain (G9)."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final

import msgspec

from streamguard_core.errors import UsageError
from streamguard_core.limits import check_seconds


class Rule(StrEnum):
    """The three answers to a disconnect."""

    CANCEL = "cancel"
    GRACE = "grace"
    DRAIN = "drain"


class DisconnectPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A rule with its bounds; build it with `cancel()`, `grace(...)` or `drain(...)`."""

    rule: Rule
    seconds: float = 0.0
    max_tokens: int | None = None
    max_bytes: int | None = None

    def __str__(self) -> str:
        """As the receipt names it, e.g. `grace(30s,max_tokens=200)`."""
        bounds = [f"{self.seconds:g}s"] if self.rule is not Rule.CANCEL else []
        bounds += [f"max_tokens={self.max_tokens}"] if self.max_tokens is not None else []
        bounds += [f"max_bytes={self.max_bytes}"] if self.max_bytes is not None else []
        return f"{self.rule}({','.join(bounds)})" if bounds else str(self.rule)


def cancel() -> DisconnectPolicy:
    """Cut the stream off in the step in which the disconnect is seen."""
    return _CANCEL


def grace(seconds: float, max_tokens: int | None = None) -> DisconnectPolicy:
    """Go on for a bounded time, waiting for the reader to come back (`session.reconnected()`).

    Args:
        seconds: how long; then the stream is cut off as `CLIENT_DISCONNECT`.
        max_tokens: how many further chunks may be produced meanwhile (a chunk counts as a token).
    """
    check_seconds("grace seconds", seconds)
    return DisconnectPolicy(
        rule=Rule.GRACE, seconds=seconds, max_tokens=_bound("max_tokens", max_tokens)
    )


def drain(seconds: float, max_bytes: int | None = None) -> DisconnectPolicy:
    """Cut the reader off at once, but read the provider on, discarding, to learn its exact usage.

    For providers that bill the whole generation whether or not it is read; prevents nothing.

    Args:
        seconds: how long to read on, counted from the disconnect.
        max_bytes: how much to read on, in bytes of chunks.
    """
    check_seconds("drain seconds", seconds)
    return DisconnectPolicy(
        rule=Rule.DRAIN, seconds=seconds, max_bytes=_bound("max_bytes", max_bytes)
    )


def as_policy(value: DisconnectPolicy | Callable[[], DisconnectPolicy]) -> DisconnectPolicy:
    """Accept `on_disconnect=cancel` as well as `on_disconnect=cancel()`.

    Raises:
        UsageError: when it is neither.
    """
    if value is cancel:
        return _CANCEL
    if isinstance(value, DisconnectPolicy):
        return value
    raise UsageError(
        f"on_disconnect={value!r} was given; use cancel(), grace(seconds, max_tokens)"
        " or drain(seconds, max_bytes)"
    )


def _bound(name: str, value: int | None) -> int | None:
    given: object = value
    if given is not None and (not isinstance(given, int) or isinstance(given, bool) or given < 1):
        raise UsageError(f"{name}={value!r} was given; it is a whole number of at least 1, or None")
    return value


_CANCEL: Final = DisconnectPolicy(rule=Rule.CANCEL)
