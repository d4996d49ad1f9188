"""Prices as people read them: what is known of one, and what many come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from streamguard_core import Unpriced, UsageError, from_pico, to_pico

_CENTS: Final = 2


def price_text(price: Mapping[str, Any]) -> str:
    """A price with its bounds where these say more; unpriced with the reason where there is one to tell."""
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


@dataclass(slots=True)
class PriceSum:
    """Totals by currency, and how many have none."""

    picos: dict[str, int] = field(default_factory=dict)
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
