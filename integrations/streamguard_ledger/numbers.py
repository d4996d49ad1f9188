"""Checks that what a receipt says does not contradict itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import msgspec

from streamguard_core import Cause, CloseState, Price, Unpriced, UsageError, sum_prices

_STEPS: Final = ("consumed", "committed", "produced")
_COUNTS: Final = ("output", "waste", "prevented")
_CATEGORIES: Final = {cause.value: cause.category.value for cause in Cause}
_CLOSES: Final = frozenset(state.value for state in CloseState)


def contradictions(receipt: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a CLOSE record, in words; nothing for one that adds up.

    Invariant: consumed <= committed <= produced, and lower <= value <= upper, wherever known (G3).
    """
    cause = receipt.get("cause")
    if cause not in _CATEGORIES:
        yield "its cause is not known"
    elif receipt.get("category") != _CATEGORIES[cause]:
        yield "its category is not that of its cause"
    if receipt.get("close") not in _CLOSES:
        yield "its close state is not known"
    known = [name for name in _STEPS if name in receipt]
    for name in (*known, *(["late"] if "late" in receipt else [])):
        if not _is_number(receipt[name]):
            yield f"{name} is no count"
            return
    for less, more in pairwise(known):
        if receipt[less] > receipt[more]:
            yield f"{less} is more than {more}"
    usage = receipt.get("usage", {})
    classes = usage.items() if isinstance(usage, dict) else ()
    counts = [(f"usage.{name}", count) for name, count in classes if name != "reported"]
    for name, count in [(name, receipt.get(name, {})) for name in _COUNTS] + counts:
        if not _adds_up(count):
            yield f"{name} is not lower <= value <= upper"
    yield from _wrong_prices(receipt)


def _wrong_prices(receipt: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the money: parts that are not their total, a sum that is not that of the attempts."""
    attempts = receipt.get("attempts")
    each = attempts if isinstance(attempts, list) else []
    try:
        price = _price(receipt)
        paid = [one for one in map(_price, each) if one is not None]
    except (UsageError, msgspec.ValidationError):
        yield "a price contradicts itself"
        return
    if price is None or not paid:
        return
    if receipt.get("attempts_beyond"):
        paid.append(Price(unpriced=Unpriced.UNKNOWN_USAGE))
    try:
        together = sum_prices(paid)
    except UsageError:
        together = Price(unpriced=Unpriced.MIXED_CURRENCIES)
    if _amounts(price) != _amounts(together):
        yield "price is not what its attempts cost together"


def _price(data: object) -> Price | None:
    found = data.get("price") if isinstance(data, dict) else None
    return None if found is None else msgspec.convert(found, Price)


def _amounts(price: Price) -> tuple[object, ...]:
    return price.total, price.lower, price.upper, price.currency, price.unpriced


def _adds_up(count: object) -> bool:
    if not isinstance(count, dict):
        return False
    bounds = [count[name] for name in ("lower", "value", "upper") if name in count]
    return all(map(_is_number, bounds)) and all(one <= two for one, two in pairwise(bounds))


def _is_number(value: object) -> bool:
    return type(value) is int and value >= 0
