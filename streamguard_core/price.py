"""Money: what a call cost as an exact amount with its source, or UNPRICED with the reason; unknown is never 0."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol, TypeVar, runtime_checkable

import msgspec

from streamguard_core.accounting import Usage
from streamguard_core.errors import UsageError

PLACES: Final = 12
"""Decimal places of every amount: a price per million tokens with six places is exact per token."""
_UNIT: Final = 10**PLACES
_AMOUNT: Final = re.compile(r"(0|[1-9][0-9]{0,17})\.([0-9]{12})", re.ASCII)
_CURRENCY: Final = re.compile(r"[A-Z]{3}", re.ASCII)


class Unpriced(StrEnum):
    """Why there is no total."""

    NO_SOURCE = "no_source"
    """No `Pricer` was given."""
    UNKNOWN_MODEL = "unknown_model"
    """The price source does not know this provider and model at that time."""
    UNKNOWN_USAGE = "unknown_usage"
    """The number of tokens is not known; bounds of the amount may be."""
    MIXED_CURRENCIES = "mixed_currencies"
    """Attempts were priced in several currencies; exchange rates have no place on a receipt."""
    PRICER_FAILED = "pricer_failed"
    """The `Pricer` raised, or returned something that is no `Price`."""
    REFUSED = "refused"
    """The provider refused the call, or it was never sent, and no usage was reported: sums leave it out."""


class PricePart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one class of tokens cost.

    Classes do not overlap: `input` is what was neither read from a cache nor written to one, and `output`
    what was not reasoning, where these have prices of their own.

    Invariant: amount == tokens * unit wherever all three are there (P31).
    """

    tokens: int | None = None
    """How many; None where only bounds are known."""
    unit: str | None = None
    """Price of one, 12 places; None in a sum over attempts with different prices."""
    amount: str | None = None
    """12 places."""


class Price(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a call, or a stream, cost: decimal strings with 12 places, never floats.

    Invariant: either there is a total, or `unpriced` says why not; lower <= total <= upper wherever known.
    Invariant: the amounts of the parts add up to the total, exactly.

    Example:
        >>> UNPRICED.total, str(UNPRICED.unpriced)
        (None, 'no_source')
    """

    total: str | None = None
    currency: str | None = None
    """ISO 4217."""
    lower: str | None = None
    """At least so much; None where the total is exact, or nothing is known."""
    upper: str | None = None
    """At most so much; None where the total is exact, or nobody knows."""
    parts: Mapping[str, PricePart] = {}
    """By class: input, cached_input, cache_write, output, reasoning, request."""
    unreported: tuple[str, ...] = ()
    """Classes with a price of their own that the provider said nothing about: taken as part of the class
    they belong to."""
    source: str | None = None
    """Whose price it is: the name of a price list or a price book."""
    version: str | None = None
    row: str | None = None
    """SHA-256 of the row of the price list, as its source describes."""
    tier: str | None = None
    """Which of several prices of that row; None where it has only one."""
    unpriced: Unpriced | None = None

    def __post_init__(self) -> None:
        if (self.total is None) == (self.unpriced is None):
            raise UsageError("a Price has either a total or a reason why it is unpriced")
        amounts = [one for one in (self.lower, self.total, self.upper) if one is not None]
        if (amounts or self.parts) and not _is_currency(self.currency):
            raise UsageError(f"a Price needs a currency such as 'USD', got {self.currency!r}")
        known = [to_pico(one) for one in amounts]
        if known != sorted(known):
            raise UsageError("a Price needs lower <= total <= upper")
        parts = [_part_pico(name, part) for name, part in self.parts.items()]
        if parts and self.total is not None and sum(map(_known, parts)) != to_pico(self.total):
            raise UsageError("the parts of a Price do not add up to its total")

    @property
    def exact(self) -> bool:
        """True when the total is known and has no bounds around it."""
        return self.total is not None and self.lower is None and self.upper is None


@runtime_checkable
class Pricer(Protocol):
    """A price source. It is asked when a stream is sealed, so it must answer from memory: no I/O, no waiting."""

    def price(self, provider: str | None, model: str | None, usage: Usage, at: datetime) -> Price:
        """What this usage costs.

        Args:
            provider: who was called, by name or by host; None where nobody said.
            model: what the provider called it, else what was asked for.
            usage: tokens by class, with their bounds.
            at: when the call was made, in UTC.
        """


UNPRICED: Final = Price(unpriced=Unpriced.NO_SOURCE)
"""Nobody was asked."""


def check_pricer(value: Pricer) -> Pricer:
    """Return `value` if it can price a call.

    Raises:
        UsageError: when it cannot.
    """
    if not callable(getattr(value, "price", None)):
        raise UsageError(
            f"prices of type {type(value).__name__} were given; a price source has"
            " price(provider, model, usage, at), such as streamguard_ledger.PriceBook(...)"
        )
    return value


def to_pico(amount: str) -> int:
    """An amount of 12 places in units of the last one.

    Raises:
        UsageError: when it is no such amount.

    Example:
        >>> to_pico("0.000002500000")
        2500000
    """
    found = _AMOUNT.fullmatch(str(amount))
    if found is None:
        raise UsageError(f"{amount!r} is no amount; it is a decimal string with 12 places")
    return int(found[1]) * _UNIT + int(found[2])


def from_pico(pico: int) -> str:
    """The amount with 12 places that is so many units of the last one.

    Raises:
        UsageError: when it is negative.

    Example:
        >>> from_pico(2_500_000)
        '0.000002500000'
    """
    if pico < 0:
        raise UsageError(f"{pico} is no amount; amounts are not negative")
    whole, rest = divmod(pico, _UNIT)
    return f"{whole}.{rest:012d}"


def sum_prices(prices: Iterable[Price]) -> Price:
    """What several calls cost together, exactly, whatever their order.

    Where one of them is unpriced, so is the sum, with the others as its lower bound. What was refused is
    left out; nothing at all is UNPRICED.

    Raises:
        UsageError: when they are in different currencies.
    """
    given = tuple(prices)
    counted = [price for price in given if price.unpriced is not Unpriced.REFUSED]
    if len(counted) == 1:
        return counted[0]
    if not counted:
        return Price(unpriced=Unpriced.REFUSED) if given else UNPRICED
    currencies = {price.currency for price in counted if price.currency is not None}
    if len(currencies) > 1:
        raise UsageError(
            f"amounts in {', '.join(sorted(currencies))} cannot be added; convert them outside of receipts"
        )
    # By name, so that the order does not decide.
    unpriced = min(
        (price.unpriced for price in counted if price.unpriced is not None), default=None
    )
    currency = currencies.pop() if currencies else None
    bounded = currency is not None and not all(price.exact for price in counted)
    return Price(
        total=None if unpriced else _sum(price.total for price in counted),
        currency=currency,
        lower=_sum(_least(price) for price in counted) if bounded else None,
        upper=_sum(_most(price) for price in counted) if bounded else None,
        parts={} if unpriced else _sum_parts([price.parts for price in counted]),
        unreported=tuple(sorted({name for price in counted for name in price.unreported})),
        source=_same({price.source for price in counted}),
        version=_same({price.version for price in counted}),
        row=_same({price.row for price in counted}),
        tier=_same({price.tier for price in counted}),
        unpriced=unpriced,
    )


_NOTHING: Final = from_pico(0)
_Value = TypeVar("_Value")


def _least(price: Price) -> str:
    return price.lower or price.total or _NOTHING


def _most(price: Price) -> str | None:
    return price.total if price.exact else price.upper


def _sum(amounts: Iterable[str | None]) -> str | None:
    """Their sum; None as soon as one is unknown."""
    known = list(amounts)
    if any(amount is None for amount in known):
        return None
    return from_pico(sum(to_pico(amount) for amount in known if amount is not None))


def _sum_parts(prices: list[Mapping[str, PricePart]]) -> dict[str, PricePart]:
    """By class; nothing as soon as one price is only a total."""
    if not all(prices):
        return {}
    names = sorted({name for parts in prices for name in parts})
    return {name: _sum_part([parts[name] for parts in prices if name in parts]) for name in names}


def _sum_part(parts: list[PricePart]) -> PricePart:
    tokens = [part.tokens for part in parts if part.tokens is not None]
    return PricePart(
        tokens=sum(tokens) if len(tokens) == len(parts) else None,
        unit=_same({part.unit for part in parts}),
        amount=_sum(part.amount for part in parts),
    )


def _same(values: set[_Value | None]) -> _Value | None:
    return next(iter(values)) if len(values) == 1 else None


def _is_currency(value: object) -> bool:
    return isinstance(value, str) and _CURRENCY.fullmatch(value) is not None


def _part_pico(name: str, part: PricePart) -> int | None:
    """The amount of a part, where it is known; refuses one that is not its tokens times the price of one."""
    if not name.isascii():
        raise UsageError(f"{name!a} is no class of tokens; name it in ASCII")
    unit = None if part.unit is None else to_pico(part.unit)
    amount = None if part.amount is None else to_pico(part.amount)
    if None not in (amount, unit, part.tokens) and part.tokens * unit != amount:  # type: ignore[operator]
        raise UsageError(f"the amount of {name} is not its tokens times the price of one")
    return amount


def _known(amount: int | None) -> int:
    if amount is None:
        raise UsageError("a Price with a total has an amount for each of its parts")
    return amount
