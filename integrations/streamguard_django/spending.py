"""What the receipts of a project come to, added up by the database: by tenant, model, cause, in each currency."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from django.db.models import Count, Sum

from streamguard_core import PriceSum, from_pico
from streamguard_core import Sum as KnownSum
from streamguard_core.price import PLACES

GROUPS: Final = ("tenant", "route", "provider", "model", "cause", "category", "finish")
"""What receipts can be added up by."""
SUMMED: Final = {
    "input": "input_tokens",
    "output": "output_tokens",
    "waste": "waste_tokens",
    "prevented_at_most": "prevented_at_most",
}
"""What is added up, by the column that it stands in."""


@dataclass(slots=True)
class Total:
    """What the receipts of one group come to; every sum says how much of it is known (G12)."""

    key: tuple[str, ...] = ()
    streams: int = 0
    sums: dict[str, KnownSum] = field(default_factory=lambda: {name: KnownSum() for name in SUMMED})
    price: PriceSum = field(default_factory=PriceSum)

    def add(self, other: Total) -> None:
        """Take another group in."""
        self.streams += other.streams
        for name, known in other.sums.items():
            mine = self.sums[name]
            mine.value, mine.known = mine.value + known.value, mine.known + known.known
            mine.unknown += known.unknown
        for currency, pico in other.price.picos.items():
            self.price.picos[currency] = self.price.picos.get(currency, 0) + pico
        self.price.unpriced += other.price.unpriced

    def to_data(self) -> dict[str, Any]:
        """As plain data for JSON: amounts are strings with 12 places, and what is not known is counted."""
        return {
            "streams": self.streams,
            **{
                name: {"value": known.value if known.known else None, "unknown": known.unknown}
                for name, known in self.sums.items()
            },
            "cost": {name: from_pico(pico) for name, pico in sorted(self.price.picos.items())},
            "unpriced": self.price.unpriced,
        }


def totals(receipts: Any, by: Sequence[str]) -> list[Total]:
    """What the receipts of a query come to, the largest group first.

    Args:
        receipts: a query set of `StreamReceipt`.
        by: one or more of `GROUPS`.

    Raises:
        ValueError: for another name.
    """
    unknown = [name for name in by if name not in GROUPS]
    if unknown:
        raise ValueError(f"receipts cannot be added up by {unknown[0]!r}; by {', '.join(GROUPS)}")
    plain = receipts.order_by()
    counted = {f"{name}_sum": Sum(column) for name, column in SUMMED.items()}
    counted |= {f"{name}_known": Count(column) for name, column in SUMMED.items()}
    found = {}
    for line in _grouped(plain, by, streams=Count("pk"), **counted):
        total = _total(tuple(line[name] for name in by), line)
        found[total.key] = total
    priced = plain.filter(cost__isnull=False)
    for line in _grouped(priced, (*by, "currency"), total=Sum("cost"), priced=Count("pk")):
        price = found[tuple(line[name] for name in by)].price
        price.picos[line["currency"]] = int(line["total"].scaleb(PLACES))
        price.unpriced -= line["priced"]
    return sorted(found.values(), key=lambda total: (-total.streams, total.key))


def grand_total(parts: Iterable[Total]) -> Total:
    """What several groups come to."""
    total = Total()
    for part in parts:
        total.add(part)
    return total


def _grouped(receipts: Any, by: Sequence[str], **aggregates: Any) -> Any:
    """One line per group."""
    return receipts.values(*by).annotate(**aggregates)


def _total(key: tuple[str, ...], line: dict[str, Any]) -> Total:
    streams = line["streams"]
    sums = {
        name: KnownSum(
            int(line[f"{name}_sum"] or 0), line[f"{name}_known"], streams - line[f"{name}_known"]
        )
        for name in SUMMED
    }
    return Total(key, streams, sums, PriceSum(unpriced=streams))
