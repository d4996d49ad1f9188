"""The immutable records of a stream: one when it opens, one (the receipt) when it is sealed."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from streamguard_core.accounting import NO_USAGE, UNKNOWN, Count, Usage
from streamguard_core.causes import Category, Cause, Party, Signal
from streamguard_core.policies import DrainEnd
from streamguard_core.price import UNPRICED, Price

SCHEMA_VERSION: Final = 1
_ERROR: Final = 400
_GATEWAY: Final = frozenset((408, 499, 502, 504, *range(520, 528)))
"""Said by somebody between us and the provider, who may have generated all the same."""


class CloseState(StrEnum):
    """Whether the producer is known to have ended (G10)."""

    ENDED = "ended"
    """It ended by itself, before anybody told it to."""
    CONFIRMED = "confirmed"
    """It was told to end, and it did."""
    UNCONFIRMED = "unconfirmed"
    """It was told to end, and had not by the close deadline."""


class AttemptRole(StrEnum):
    """Why a call was made."""

    FIRST = "first"
    RETRY = "retry"
    """The same provider again, before anything was visible to the reader."""
    FALLBACK = "fallback"
    """Another provider, before anything was visible to the reader."""
    RESUME = "resume"
    """Goes on where a failed attempt broke off, after visible output."""
    HEDGE = "hedge"
    """Made beside a slow one; the loser is cut off."""


class AttemptOutcome(StrEnum):
    """How a call ended."""

    COMPLETED = "completed"
    """The provider's own end was seen."""
    CUT = "cut"
    """We closed it before."""
    TRUNCATED = "truncated"
    """It ended without the provider's terminal marker."""
    FAILED = "failed"
    """The provider refused it, could not be reached, or reported an error."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One call to a provider within a stream; provider money is spent per attempt."""

    role: AttemptRole = AttemptRole.FIRST
    outcome: AttemptOutcome | None = None
    """None where nobody looked into the response (a call that is no stream of a known dialect)."""
    provider: str | None = None
    model: str | None = None
    request_id: str | None = None
    status: int | None = None
    started_ns: int | None = None
    closed_ns: int | None = None
    bytes_received: int = 0
    cut: bool = False
    """True when we closed it before the provider had ended."""
    chunks: int = 0
    """Chunks decoded from its response."""
    finish: str | None = None
    """The provider's finish reason, in its own word."""
    error: str | None = None
    """The provider's error type or code, a word; never its message, which may quote the prompt."""
    connected: bool | None = None
    """False when no connection stood, so that nothing was sent; None where nobody looked."""
    usage: Usage | None = None
    """What this call's provider reported; None when it reported nothing."""
    run_id: str | None = None
    """What the application's own framework calls the run that made this call."""
    parent_run_id: str | None = None
    """The run within which that run was made."""
    price: Price | None = None
    """What this call cost; filled in at the seal where it is None."""

    @property
    def cost_nothing(self) -> bool:
        """True when nothing was generated: nothing was sent, or the provider answered with an error status.

        A call that failed in mid-stream, or after it was sent, may have cost something: that is not known.
        """
        refused = self.status is not None and self.status >= _ERROR and self.status not in _GATEWAY
        silent = self.usage is None or self.usage == NO_USAGE
        return silent and (refused or self.connected is False)


class Instants(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """When things happened, in nanoseconds of the session's monotonic clock; None where they did not."""

    opened_ns: int
    connected_ns: int | None = None
    first_chunk_ns: int | None = None
    cause_ns: int | None = None
    cutoff_ns: int | None = None
    close_called_ns: int | None = None
    close_confirmed_ns: int | None = None
    sealed_ns: int | None = None


class OpenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is made durable before the provider is called: this stream may cost money from now on."""

    stream_id: str
    opened_us: int
    model: str | None = None
    provider: str | None = None
    max_tokens: int | None = None
    tags: Mapping[str, str] = {}

    def to_record(self) -> dict[str, Any]:
        """As plain data (strings, integers, booleans, maps); what is unknown is absent."""
        return _plain("OPEN", self)


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one ending. Exactly one exists per stream (G11); it never changes.

    `produced >= committed >= consumed` count chunks. Token counts are `Count`s: value, bounds and source.
    """

    stream_id: str
    cause: Cause
    party: Party | None
    detail: str = ""
    finish: str | None = None
    """What the provider said at its end (`stop`, `length`, ...); independent of the cause."""
    client_left_early: bool = False
    """The reader left after the provider's finish and before its usage record."""
    history: tuple[Signal, ...] = ()
    policy: str = "none"
    """The disconnect rule that was applied, or `none`."""
    drain: DrainEnd | None = None
    """How reading on after the reader came to its end, or that it had no place; None where none was due."""
    termination: str | None = None
    """The row that says what closing the provider saves, where it was used: whose, which, of which table."""
    produced: int
    committed: int
    consumed: int
    late: int
    """Chunks that came after the cutoff: refused and counted (G2)."""
    usage: Usage = NO_USAGE
    output: Count = UNKNOWN
    """Tokens generated, best source first."""
    waste: Count = UNKNOWN
    """Generated and never delivered."""
    prevented: Count = UNKNOWN
    """Never generated because the stream was cut off; an upper bound unless a better estimator says more."""
    close: CloseState
    eos_delivered: bool = False
    instants: Instants
    opened_us: int
    """Wall clock, microseconds since the epoch, UTC. Durations come from `instants` only."""
    sealed_us: int
    model: str | None = None
    provider: str | None = None
    request_id: str | None = None
    max_tokens: int | None = None
    attempts: tuple[Attempt, ...] = ()
    attempts_beyond: int = 0
    """Further calls, which were only counted: the price and the usage are at least those of `attempts`."""
    price: Price = UNPRICED
    """What the attempts cost together; that of `usage` where no attempt was reported."""
    tags: Mapping[str, str] = {}

    @property
    def category(self) -> Category:
        """The group of the cause."""
        return self.cause.category

    @property
    def completed(self) -> bool:
        """True when the producer finished and every chunk was committed."""
        return self.cause is Cause.COMPLETED

    def to_record(self) -> dict[str, Any]:
        """As plain data (strings, integers, booleans, lists, maps) for a ledger; what is unknown is absent."""
        record = _plain("CLOSE", self)
        record["category"] = str(self.category)
        return record


def _plain(kind: str, struct: msgspec.Struct) -> dict[str, Any]:
    """Plain data without nulls: in a record, absent means unknown (`accounting.md` 10)."""
    record: dict[str, Any] = {"v": SCHEMA_VERSION, "kind": kind}
    pruned: dict[str, Any] = _prune(msgspec.to_builtins(struct))
    return record | pruned


def _prune(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _prune(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_prune(item) for item in value]
    return value
