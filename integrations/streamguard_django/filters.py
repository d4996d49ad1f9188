"""What receipts in the admin are narrowed by: fixed words, or what there is of something, within a bound."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from django.contrib import admin

_CHOICES: Final = 50
"""A list of ten thousand tenants helps nobody; the others are found by their own links."""


class _Narrowing(admin.SimpleListFilter):
    """One column, equal to what was chosen; also to what is not among the choices."""

    def choices_of(self, model_admin: Any) -> Iterable[str]:
        """The values to choose from."""
        raise NotImplementedError

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        """The choices as they are shown; what is chosen is always among them."""
        values = list(self.choices_of(model_admin))
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
        return queryset if value is None else queryset.filter(**{self.parameter_name: value})


def known(column: str, words: Iterable[str]) -> type[Any]:
    """A filter by words that are known beforehand."""
    values = [str(word) for word in words]

    class Known(_Narrowing):
        title = column
        parameter_name = column

        def choices_of(self, model_admin: Any) -> Iterable[str]:
            return values

    return Known


def present(column: str) -> type[Any]:
    """A filter by what stands in the column, at most fifty of it."""

    class Present(_Narrowing):
        title = column
        parameter_name = column

        def choices_of(self, model_admin: Any) -> Iterable[str]:
            values = model_admin.model.objects.order_by(column).values_list(column, flat=True)
            return list(values.distinct()[:_CHOICES])

    return Present


Tenants: Final = present("tenant")
"""The filter to which the totals link."""
