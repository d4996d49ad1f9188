"""What a disconnect, which is only intent, turns into: cancel, grace or drain (G9)."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Final, TypeAlias

import msgspec

from streamguard_core.errors import UsageError
from streamguard_core.limits import check_seconds
from streamguard_core.termination import OnClose, Termination


class Rule(StrEnum):
    """The three answers to a disconnect."""

    CANCEL = "cancel"
    GRACE = "grace"
    DRAIN = "drain"


class DrainEnd(StrEnum):
    """How reading on, after the reader had left, came to its end."""

    # As for `Category`: Enum's own hash is Python code.
    __hash__ = str.__hash__

    FINISHED = "finished"
    """The provider ended by itself: all that it had to say is known."""
    FAILED = "failed"
    SECONDS = "seconds"
    BYTES = "bytes"
    TOKENS = "tokens"
    COST = "cost"
    """One of its bounds was reached, and the provider was closed after all."""
    STOPPED = "stopped"
    """Somebody with authority did not wait for it, such as a shutdown."""
    NO_PLACE = "no_place"
    """It was never begun: as many drains as may run at once were running."""


class DrainLimit:
    """How many drains may run at once, among all the sessions whose policies share this object.

    Args:
        at_once: drains that run at the same time, at most.

    Raises:
        UsageError: when that is not a whole number of at least 1.

    Example:
        >>> limit = DrainLimit(1)
        >>> limit.enter(), limit.enter(), limit.running
        (True, False, 1)
        >>> limit.leave()
        >>> limit
        DrainLimit(1, running=0)
    """

    __slots__ = ("_free", "at_once")

    def __init__(self, at_once: int) -> None:
        _bound("at_once", at_once)
        self.at_once = at_once
        # Taking from a list and putting back are atomic, from any thread; a count would need a lock.
        self._free = [True] * at_once

    def __repr__(self) -> str:
        return f"DrainLimit({self.at_once}, running={self.running})"

    @property
    def running(self) -> int:
        """How many drains run now."""
        return self.at_once - len(self._free)

    def enter(self) -> bool:
        """Take a place for one drain; False when there is none."""
        try:
            return self._free.pop()
        except IndexError:
            return False

    def leave(self) -> None:
        """Give a place back that `enter()` has taken."""
        self._free.append(True)


class DisconnectPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A rule with its bounds; build it with `cancel()`, `grace(...)` or `drain(...)`."""

    rule: Rule
    seconds: float = 0.0
    max_tokens: int | None = None
    max_bytes: int | None = None
    max_cost: Decimal | None = None
    cost_tokens: int | None = None
    """So many tokens cost at least `max_cost`."""
    limit: DrainLimit | None = None

    def __str__(self) -> str:
        """As the receipt names it, e.g. `grace(30s,max_tokens=200)`."""
        bounds = [f"{self.seconds:g}s"] if self.rule is not Rule.CANCEL else []
        bounds += [f"max_tokens={self.max_tokens}"] if self.max_tokens is not None else []
        bounds += [f"max_bytes={self.max_bytes}"] if self.max_bytes is not None else []
        bounds += [f"max_cost={self.max_cost:f}"] if self.max_cost is not None else []
        bounds += [f"at_once={self.limit.at_once}"] if self.limit is not None else []
        return f"{self.rule}({','.join(bounds)})" if bounds else str(self.rule)

    def reached(self, drained_bytes: int, drained_tokens: int) -> DrainEnd | None:
        """The bound that a drain has come to, besides its time; None while it may go on."""
        if self.max_bytes is not None and drained_bytes >= self.max_bytes:
            return DrainEnd.BYTES
        if self.max_tokens is not None and drained_tokens >= self.max_tokens:
            return DrainEnd.TOKENS
        if self.cost_tokens is not None and drained_tokens >= self.cost_tokens:
            return DrainEnd.COST
        return None


class ByProvider(msgspec.Struct, frozen=True, kw_only=True):
    """A policy for each answer to what closing does; build it with `by_provider(...)`."""

    saves: DisconnectPolicy
    bills: DisconnectPolicy
    unknown: DisconnectPolicy

    def under(self, row: Termination | None) -> DisconnectPolicy:
        """The policy that follows from a row; without one nothing is known."""
        on_close = OnClose.UNKNOWN if row is None else row.on_close
        if on_close is OnClose.STOPS_BILLING:
            return self.saves
        return self.bills if on_close is OnClose.BILLS_FULL else self.unknown


OnDisconnect: TypeAlias = (
    DisconnectPolicy | ByProvider | Callable[[], DisconnectPolicy] | Callable[[], ByProvider]
)
"""What `on_disconnect` takes."""


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


def drain(
    seconds: float,
    max_bytes: int | None = None,
    *,
    max_tokens: int | None = None,
    max_cost: Decimal | str | None = None,
    token_cost: Decimal | str | None = None,
    limit: DrainLimit | None = None,
) -> DisconnectPolicy:
    """Cut the reader off at once, but read the provider on, discarding, to learn its exact usage.

    For providers that bill the whole generation whether or not it is read. The first bound that is
    reached ends it; the receipt says which. All count from the disconnect.

    Args:
        seconds: how long to read on.
        max_bytes: how much to read on, in bytes of chunks.
        max_tokens: how much to read on, in tokens: a chunk counts as one, unless the provider's own
            running count has grown by more.
        max_cost: what reading on may cost, in the currency of `token_cost`.
        token_cost: what one token of output costs, exactly: a `Decimal`, or its text.
        limit: how many drains may run at once, among all sessions that share it; where no place is
            free, the stream is cancelled instead.

    Raises:
        UsageError: for a bound that is out of range, a float as money, and a cost without its price.

    Example:
        >>> str(drain(30, max_cost="0.05", token_cost="0.000015", limit=DrainLimit(8)))
        'drain(30s,max_cost=0.05,at_once=8)'
    """
    check_seconds("drain seconds", seconds)
    most, each = _money("max_cost", max_cost), _money("token_cost", token_cost)
    if (most is None) is not (each is None):
        raise UsageError(
            "drain() was given max_cost without token_cost, or the other way round; give both"
        )
    return DisconnectPolicy(
        rule=Rule.DRAIN,
        seconds=seconds,
        max_tokens=_bound("max_tokens", max_tokens),
        max_bytes=_bound("max_bytes", max_bytes),
        max_cost=most,
        cost_tokens=None if most is None or each is None else _at_least(most, each),
        limit=_check_limit(limit),
    )


def by_provider(
    *,
    saves: DisconnectPolicy | None = None,
    bills: DisconnectPolicy | None = None,
    unknown: DisconnectPolicy | None = None,
) -> ByProvider:
    """Do what pays at the provider in hand, by its row in the table of terminations.

    Args:
        saves: where closing stops billing; `cancel()` by default.
        bills: where the whole generation is billed anyway; `drain(60)` by default.
        unknown: where nobody can say; `cancel()` by default.

    Raises:
        UsageError: when one of them is no policy.

    Example:
        >>> rule = by_provider(bills=drain(30))
        >>> str(rule.under(Termination(provider="aws-bedrock", on_close=OnClose.BILLS_FULL)))
        'drain(30s)'
        >>> str(rule.under(None))
        'cancel'
    """
    return ByProvider(
        saves=_given("saves", saves, _CANCEL),
        bills=_given("bills", bills, _DRAIN),
        unknown=_given("unknown", unknown, _CANCEL),
    )


def as_policy(value: OnDisconnect) -> DisconnectPolicy | ByProvider:
    """Accept `on_disconnect=cancel` as well as `on_disconnect=cancel()`.

    Raises:
        UsageError: when it is neither.
    """
    given: object = value
    if given is cancel or given is by_provider:
        return cancel() if given is cancel else by_provider()
    if isinstance(value, DisconnectPolicy | ByProvider):
        return value
    raise UsageError(
        f"on_disconnect={value!r} was given; use cancel(), grace(seconds, max_tokens),"
        " drain(seconds, max_bytes) or by_provider()"
    )


def _given(
    name: str, value: DisconnectPolicy | None, default: DisconnectPolicy
) -> DisconnectPolicy:
    given: object = default if value is None else value
    if not isinstance(given, DisconnectPolicy):
        raise UsageError(
            f"by_provider({name}={value!r}) was given; use cancel(), grace(...) or drain(...)"
        )
    return given


def _bound(name: str, value: int | None) -> int | None:
    given: object = value
    if given is not None and (not isinstance(given, int) or isinstance(given, bool) or given < 1):
        raise UsageError(f"{name}={value!r} was given; it is a whole number of at least 1, or None")
    return value


def _money(name: str, value: Decimal | str | None) -> Decimal | None:
    if value is None:
        return None
    given: object = value
    try:
        amount = Decimal(value) if isinstance(given, Decimal | str) else None
    except InvalidOperation:
        amount = None
    if amount is None or not amount.is_finite() or amount <= 0:
        raise UsageError(
            f"{name}={value!r} was given; it is a positive Decimal or its text, or None"
        )
    return amount


def _at_least(most: Decimal, each: Decimal) -> int:
    """How many tokens at `each` cost at least `most`; in whole numbers, which do not round."""
    (a, b), (c, d) = most.as_integer_ratio(), each.as_integer_ratio()
    return -(-(a * d) // (b * c))


def _check_limit(value: DrainLimit | None) -> DrainLimit | None:
    given: object = value
    if given is not None and not isinstance(given, DrainLimit):
        raise UsageError(f"limit={value!r} was given; it is a DrainLimit(at_once), or None")
    return value


_CANCEL: Final = DisconnectPolicy(rule=Rule.CANCEL)
_DRAIN: Final = DisconnectPolicy(rule=Rule.DRAIN, seconds=60.0)
