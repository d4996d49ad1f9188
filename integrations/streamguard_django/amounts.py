"""A database column for money: exact on every database, SQLite included."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models

from streamguard_core.price import PLACES


class AmountField(models.BigIntegerField):
    """An amount with 12 places: a `Decimal` in Python, an integer of units of the last place in the database.

    A decimal column would be a float on SQLite, and the sum of a million floats is not the sum of the amounts. An
    integer is exact everywhere, can be added up by the database, and holds up to nine million units of a currency.
    """

    description = "An exact amount with 12 decimal places"

    def from_db_value(self, value: Any, expression: object, connection: object) -> Decimal | None:
        """Of what the database gives for the column, or for a sum over it."""
        return None if value is None else Decimal(int(value)).scaleb(-PLACES)

    def to_python(self, value: Any) -> Decimal | None:
        """Of what a form or a fixture gives.

        Raises:
            ValidationError: when it is no amount.
        """
        if value is None or isinstance(value, Decimal):
            return value
        try:
            return Decimal(value if isinstance(value, int) else str(value))
        except InvalidOperation:
            raise ValidationError(f"{value!r} is no amount") from None

    def get_prep_value(self, value: Any) -> int | None:
        """What the database gets.

        Raises:
            ValueError: for a float, and for more than 12 places: an amount is never rounded.
        """
        if value is None or hasattr(value, "resolve_expression"):
            return value  # type: ignore[no-any-return]
        if isinstance(value, float):
            raise ValueError("an amount is exact; give a Decimal or a string, not a float")
        pico = Decimal(value).scaleb(PLACES)
        if pico != int(pico):
            raise ValueError(f"an amount has at most {PLACES} decimal places")
        return int(pico)

    def formfield(self, **kwargs: Any) -> Any:
        """A field for decimals."""
        return super(models.BigIntegerField, self).formfield(
            **{"form_class": forms.DecimalField, "decimal_places": PLACES, **kwargs}
        )

    def value_to_string(self, obj: Any) -> str:
        """For fixtures."""
        value = self.value_from_object(obj)
        return "" if value is None else str(value)
