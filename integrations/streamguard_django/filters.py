"""What receipts in the admin are narrowed by: fixed words, or what there is of something, within a bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from django.contrib import admin

_CHOICES: Final = 50
"""A list of ten thousand tenants helps nobody; the others are found by their own links."""


def known(column: str, words: Iterable[str]) -> type[Any]:
    """A filter by words that are known beforehand."""
    values = [str(word) for word in words]
    return _narrowing(column, lambda receipts: values)


def present(column: str) -> type[Any]:
    """A filter by what stands in the column, at most fifty of it."""

    def values(receipts: Any) -> list[str]:
        found = receipts.order_by(column).values_list(column, flat=True)
        return list(found.distinct()[:_CHOICES])

    return _narrowing(column, values)


def _narrowing(column: str, values_of: Callable[[Any], Iterable[str]]) -> type[Any]:
    """A filter by one column, equal to what was chosen; also to what is not among the choices.

    Args:
        column: its name.
        values_of: returns the values to choose from, of a query set of all receipts.
    """

    class Narrowing(admin.SimpleListFilter):
        title = column
        parameter_name = column

        def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
            """The choices as they are shown; what is chosen is always among them."""
            values = list(values_of(model_admin.model.objects.all()))
            chosen = self.value()
            if chosen is not None and chosen not in values:
                values.append(chosen)
            return [(value, value or "(none)") for value in values]

        def has_output(self) -> bool:
            """Shown even with one choice: it says what there is."""
            return bool(self.lookup_choices)

        def queryset(self, request: Any, queryset: Any) -> Any:
            """Only what has that value."""
            value = self.value()
            return queryset if value is None else queryset.filter(**{column: value})

    return Narrowing


Tenants: Final = present("tenant")
"""The filter to which the totals link."""
