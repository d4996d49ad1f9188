"""What many receipts come to, as people read it: every sum says how much of it is known (G12)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from streamguard_core.errors import UsageError
from streamguard_core.price import Unpriced, from_pico, to_pico

_CENTS: Final = 2


def price_text(price: Mapping[str, Any]) -> str:
    """A price with its bounds where these say more; unpriced with the reason where there is one to tell.

    Args:
        price: a `Price` as plain data, from a receipt that was stored somewhere: believed in nothing.

    Example:
        >>> price_text({"total": "0.002500000000", "currency": "USD"}), price_text({"unpriced": "unknown_model"})
        ('0.0025 USD', 'unpriced unknown_model')
    """
    currency = price.get("currency", "")
    total, lower, upper = (_pico(price.get(name)) for name in ("total", "lower", "upper"))
    if total is not None and lower is None and upper is None:
        return f"{_short(total)} {currency}"
    known = [] if total is None else [f"~{_short(total)}"]
    if upper is not None:
        known.append(f"{_short(lower or 0)}..{_short(upper)}")
    elif lower is not None:
        known.append(f">={_short(lower)}")
    if known:
        return f"{' '.join(known)} {currency}"
    reason = price.get("unpriced")
    if reason is None:
        return "unknown"
    return "unpriced" if reason == Unpriced.NO_SOURCE else f"unpriced {reason}"


def count_text(count: Mapping[str, Any]) -> str:
    """A `Count` as plain data: its value, with its bounds where they say more.

    Example:
        >>> count_text({"value": 7, "lower": 5, "upper": 9}), count_text({"lower": 0}), count_text({"lower": 3})
        ('~7 5..9', 'unknown', '>=3')
    """
    value, lower, upper = (count.get(name) for name in ("value", "lower", "upper"))
    if value is not None and value == lower == upper:
        return str(value)
    known = [] if value is None else [f"~{value}"]
    if upper is not None:
        known.append(f"{lower or 0}..{upper}")
    elif lower:
        known.append(f">={lower}")
    return " ".join(known) or "unknown"


@dataclass(slots=True)
class Sum:
    """A sum that says how much of it is known.

    Example:
        >>> total = Sum()
        >>> total.add(3), total.add(None), str(total)
        (None, None, '3 (+ 1 unknown)')
    """

    value: int = 0
    known: int = 0
    """How many numbers it is the sum of."""
    unknown: int = 0
    """How many more there are, of which nobody knows what they are."""

    def add(self, number: object) -> None:
        """Take one in; what is no integer is not known."""
        if type(number) is int:
            self.value += number
            self.known += 1
        else:
            self.unknown += 1

    def __str__(self) -> str:
        if not self.unknown:
            return str(self.value)
        return f"{self.value} (+ {self.unknown} unknown)" if self.known else "unknown"


@dataclass(slots=True)
class PriceSum:
    """Totals by currency, and how many have none: different currencies are never added.

    Example:
        >>> total = PriceSum()
        >>> total.add({"total": "0.100000000000", "currency": "EUR"})
        >>> total.add({"unpriced": "no_source"})
        >>> str(total)
        '0.10 EUR (+ 1 unpriced)'
    """

    picos: dict[str, int] = field(default_factory=dict)
    """By currency, in units of the last of 12 places."""
    unpriced: int = 0

    def add(self, price: Mapping[str, Any]) -> None:
        """Take one in; what has no total is only counted."""
        total, currency = _pico(price.get("total")), price.get("currency")
        if total is None or not isinstance(currency, str):
            self.unpriced += 1
        else:
            self.picos[currency] = self.picos.get(currency, 0) + total

    def __str__(self) -> str:
        if not self.picos:
            return "unpriced"
        known = " and ".join(f"{_short(pico)} {name}" for name, pico in sorted(self.picos.items()))
        return f"{known} (+ {self.unpriced} unpriced)" if self.unpriced else known


def _pico(amount: object) -> int | None:
    try:
        return to_pico(amount) if isinstance(amount, str) else None
    except UsageError:
        return None


def _short(pico: int) -> str:
    """Every digit that counts, and cents at least."""
    whole, _, places = from_pico(pico).partition(".")
    return f"{whole}.{places.rstrip('0').ljust(_CENTS, '0')}"
