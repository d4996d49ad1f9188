"""What usage costs at given unit prices: exact where it is known, bounds where only they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from streamguard_core import Count, Price, PricePart, Unpriced, Usage, UsageError, from_pico

SHARES: Final = {
    "cached_input": "input",
    "cache_write": "input",
    "cache_write_1h": "input",
    "reasoning": "output",
}
"""Classes that are part of another one; without a price of their own they cost what that one does."""
REQUEST: Final = "request"
"""What a call costs beside its tokens."""

_PICO: Final = Decimal(10**12)
_EXACT: Final = Context(prec=64, rounding=ROUND_HALF_EVEN, Emax=MAX_EMAX, Emin=MIN_EMIN)


@dataclass(frozen=True, slots=True)
class Tier:
    """Unit prices that hold where the input has more than `above` tokens."""

    units: Mapping[str, int]
    """By class, what one token costs in units of the 12th decimal place."""
    above: int = -1
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """A row of a price list.

    Invariant: the tiers ascend, and the first one holds from 0 tokens on.
    """

    currency: str
    source: str
    version: str
    row: str
    tiers: tuple[Tier, ...]
    by_kind: bool = False
    """True when audio or images have prices of their own, which no usage tells apart well enough."""

    def tiers_of(self, count: Count) -> list[Tier]:
        """Those that may hold for this input, the lowest first."""
        top = self.tiers[-1].above + 1 if count.upper is None else count.upper
        last = self._tier_at(max(top, count.lower))
        return list(self.tiers[self._tier_at(count.lower) : last + 1])

    def tier(self, tokens: int) -> Tier:
        """The one that holds for so much input: above an edge means at least one token more."""
        return self.tiers[self._tier_at(tokens)]

    def _tier_at(self, tokens: int) -> int:
        return max(at for at, tier in enumerate(self.tiers) if at == 0 or tokens > tier.above)


def pico(price: object, per: int = 1_000_000, *, exact: bool = True) -> int:
    """What one costs in units of the 12th decimal place, where `price` is that of `per`.

    Args:
        price: a decimal string or a Decimal.
        per: how many that price buys: a million tokens.
        exact: refuse what has more than 12 places for one; else it is rounded half to even.

    Raises:
        UsageError: when `price` is none, and when it has too many places.
    """
    try:
        value = Decimal(price) if isinstance(price, str | Decimal) else Decimal("NaN")
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0 or value >= _PICO:
        raise UsageError(f'{price!r} is no price; write a decimal string such as "2.50"')
    one = _EXACT.divide(_EXACT.multiply(value, _PICO), Decimal(per))
    rounded = _EXACT.to_integral_value(one)
    if exact and rounded != one:
        raise UsageError(f"{price!r} has more decimal places than an amount keeps")
    return int(rounded)


def row_hash(row: Mapping[str, Any]) -> str:
    """SHA-256 of a row of plain data, as JSON with sorted keys and without white space."""
    return hashlib.sha256(msgspec.json.encode(row, order="deterministic")).hexdigest()


def rated(usage: Usage, rates: Rates, *, written_1h: int = 0) -> Price:
    """The price of this usage.

    Args:
        usage: `input` includes what was cached, `output` includes reasoning.
        rates: the row that holds.
        written_1h: of the cache write, what is kept for an hour; counts where that has its own price.
    """
    classes = rates.tiers[0].units
    counts = _counts(usage, written_1h if "cache_write_1h" in classes else 0)
    if rates.by_kind and (usage.audio.value or usage.image.value):
        return _price(rates, None, unpriced=Unpriced.UNKNOWN_USAGE)
    tiers = rates.tiers_of(counts["input"])
    lower = min(_cost(_least(counts, tier.units), tier.units) for tier in tiers)
    upper = _at_most(counts, tiers)
    unreported = tuple(name for name in SHARES if _assumed(name, counts, tiers))
    tokens = _known(counts, classes)
    if tokens is None:
        return _price(
            rates,
            tiers[0] if len(tiers) == 1 else None,
            unpriced=Unpriced.UNKNOWN_USAGE,
            lower=from_pico(lower) if lower or upper is not None else None,
            upper=None if upper is None else from_pico(upper),
            unreported=unreported,
        )
    tier = rates.tier(usage.input.value or 0)
    total = _cost(tokens, tier.units)
    exact = lower == total == upper
    return _price(
        rates,
        tier,
        tokens=tokens,
        total=from_pico(total),
        lower=None if exact else from_pico(lower),
        upper=None if exact or upper is None else from_pico(upper),
        unreported=unreported,
    )


def _price(
    rates: Rates, tier: Tier | None, *, tokens: Mapping[str, int] | None = None, **said: Any
) -> Price:
    """A price that says where it comes from."""
    units = {} if tier is None else tier.units
    return Price(
        currency=rates.currency,
        source=rates.source,
        version=rates.version,
        row=rates.row,
        tier=None if tier is None else tier.name,
        parts={
            name: _part(unit, None if tokens is None else tokens[name])
            for name, unit in units.items()
            if tokens is None or name in tokens
        },
        **said,
    )


def _part(unit: int, tokens: int | None) -> PricePart:
    amount = None if tokens is None else from_pico(tokens * unit)
    return PricePart(tokens=tokens, unit=from_pico(unit), amount=amount)


def _counts(usage: Usage, written_1h: int) -> dict[str, Count]:
    """By class, with the cache write taken apart by how long it is kept."""
    write = usage.cache_write
    hour = min(written_1h, write.value or 0)
    return {
        "input": usage.input,
        "cached_input": usage.cached_input,
        "cache_write": _less(write, hour),
        "cache_write_1h": Count.exact(hour, write.source) if hour else Count(),
        "output": usage.output,
        "reasoning": usage.reasoning,
    }


def _less(count: Count, part: int) -> Count:
    if not part or count.value is None:
        return count
    upper = None if count.upper is None else count.upper - part
    return Count(count.value - part, max(count.lower - part, 0), upper, count.source)


def _said(count: Count) -> bool:
    """True when anything is known of it, be it only a bound."""
    return count.known or count.lower > 0 or count.upper is not None


def _assumed(share: str, counts: Mapping[str, Count], tiers: Iterable[Tier]) -> bool:
    """True when a share that would cost something else was taken as none."""
    parent = SHARES[share]
    differs = any(one.units.get(share) not in (None, one.units.get(parent)) for one in tiers)
    whole = counts[parent]
    # How long a cache write is kept is not a question where nothing was written.
    asked = share != "cache_write_1h"
    return differs and asked and not _said(counts[share]) and whole.upper != 0


def _known(counts: Mapping[str, Count], classes: Iterable[str]) -> dict[str, int] | None:
    """How many tokens of each class, none twice; None where that is not known, or contradicts itself."""
    tokens = {REQUEST: 1} if REQUEST in classes else {}
    for parent in ("input", "output"):
        if parent not in classes:
            continue
        rest = counts[parent].value
        for share in _shares(parent, classes):
            part = counts[share].value
            if not _said(counts[share]):
                continue
            if rest is None or part is None or part > rest:
                return None
            tokens[share] = part
            rest -= part
        if rest is None:
            return None
        tokens[parent] = rest
    return tokens


def _least(counts: Mapping[str, Count], units: Mapping[str, int]) -> dict[str, int]:
    """The tokens that cost least of all that the counts leave open."""
    tokens = {REQUEST: 1} if REQUEST in units else {}
    for parent in ("input", "output"):
        if parent in units:
            tokens |= _spread(counts, units, parent, counts[parent].lower, most=False)
    return tokens


def _at_most(counts: Mapping[str, Count], tiers: Iterable[Tier]) -> int | None:
    """What the dearest that the counts leave open costs; None where there is no end to it."""
    costs = []
    for tier in tiers:
        units = tier.units
        tokens = {REQUEST: 1} if REQUEST in units else {}
        for parent in ("input", "output"):
            if parent in units:
                whole = counts[parent].upper
                if whole is None:
                    return None
                tokens |= _spread(counts, units, parent, whole, most=True)
        costs.append(_cost(tokens, units))
    return max(costs)


def _spread(
    counts: Mapping[str, Count], units: Mapping[str, int], parent: str, whole: int, *, most: bool
) -> dict[str, int]:
    """Divide a class into its shares so that it costs as much, or as little, as can be."""
    tokens, rest = {}, whole
    shares = _shares(parent, units)
    for share in shares:
        tokens[share] = min(counts[share].lower, rest)
        rest -= tokens[share]
    for share in sorted(shares, key=lambda name: units[name], reverse=most):
        count = counts[share]
        tempting = units[share] > units[parent] if most else units[share] < units[parent]
        if tempting and _said(count):
            more = rest if count.upper is None else min(rest, count.upper - tokens[share])
            tokens[share] += more
            rest -= more
    tokens[parent] = rest
    return tokens


def _shares(parent: str, classes: Iterable[str]) -> list[str]:
    return [share for share, whole in SHARES.items() if whole == parent and share in classes]


def _cost(tokens: Mapping[str, int], units: Mapping[str, int]) -> int:
    return sum(count * units[name] for name, count in tokens.items())
