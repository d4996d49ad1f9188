"""Your own prices: contract rates, engines that you run yourself, models that no public list knows."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from streamguard_core import Price, Pricer, Unpriced, Usage, UsageError
from streamguard_ledger.rating import REQUEST, Rates, Tier, pico, rated, row_hash

_CLASSES: Final = ("input", "cached_input", "cache_write", "output", "reasoning")
_PRICES: Final = (*_CLASSES, REQUEST)
_ROW: Final = frozenset(
    {"provider", "model", "valid_from", "valid_until", "currency", "tiers", *_PRICES}
)
_TIER: Final = frozenset({"above", *_PRICES})
_BOOK: Final = frozenset({"name", "version", "currency", "prices"})
_CURRENCY: Final = re.compile(r"[A-Z]{3}", re.ASCII)
_UNKNOWN: Final = Price(unpriced=Unpriced.UNKNOWN_MODEL)


class PriceBook:
    """Prices from a TOML or JSON file, or from a dict of the same shape.

    The first row that fits the provider, the model and the time of the call holds. The book is read once,
    here: a changed file is a new `PriceBook`.

    Args:
        prices: path of a `.toml` or `.json` file, or the data itself. It holds `currency` (ISO 4217),
            optionally `name` and `version`, and `prices`: a list of rows. A row has `model` (a pattern with
            `*` and `?`, without regard to case), optionally `provider` (a pattern as well), `valid_from`
            (included) and `valid_until` (excluded; dates are UTC midnight), and decimal strings: the price of
            a million tokens of `input`, `output`, `cached_input`, `cache_write`, `reasoning`, and of one
            `request`. A class without a price costs what the class does that it is part of. `tiers` lists
            prices for calls whose input is `above` so many tokens.
        otherwise: asked where no row fits.

    Raises:
        UsageError: when the data is no price book; says which row, and what to write.

    Example:
        >>> from datetime import UTC, datetime
        >>> book = PriceBook({
        ...     "currency": "EUR",
        ...     "prices": [{"model": "llama3*", "input": "0.10", "output": "0.40"}],
        ... })
        >>> usage = Usage.reported_by_provider(input=1000, output=500)
        >>> price = book.price("ollama", "llama3:8b", usage, datetime.now(UTC))
        >>> price.total, price.currency
        ('0.000300000000', 'EUR')
    """

    def __init__(
        self, prices: str | Path | Mapping[str, Any], *, otherwise: Pricer | None = None
    ) -> None:
        where, data = _load(prices)
        _refuse_unknown(where, data, _BOOK)
        rows = data.get("prices")
        if not isinstance(rows, list) or not rows:
            raise UsageError(f"{where} has no rows; give a list under `prices`")
        self.name = _text(where, data, "name") or "price-book"
        self.version = _text(where, data, "version") or row_hash(_plain(data))[:16]
        self._otherwise = otherwise
        self._rows = [
            _row(f"{where}: prices[{index}]", data, row, self.name, self.version)
            for index, row in enumerate(rows)
        ]

    def __repr__(self) -> str:
        return f"<PriceBook {self.name} {self.version}, {len(self._rows)} rows>"

    def price(self, provider: str | None, model: str | None, usage: Usage, at: datetime) -> Price:
        """See `Pricer`."""
        if model is not None:
            for row in self._rows:
                if row.fits(provider, model, at):
                    return rated(usage, row.rates)
        if self._otherwise is not None:
            return self._otherwise.price(provider, model, usage, at)
        return _UNKNOWN


@dataclass(frozen=True, slots=True)
class _Row:
    provider: str | None
    model: str
    valid_from: datetime | None
    valid_until: datetime | None
    rates: Rates

    def fits(self, provider: str | None, model: str, at: datetime) -> bool:
        return (
            fnmatchcase(model.lower(), self.model)
            and (self.provider is None or fnmatchcase((provider or "").lower(), self.provider))
            and (self.valid_from is None or self.valid_from <= at)
            and (self.valid_until is None or at < self.valid_until)
        )


def _load(prices: str | Path | Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    if isinstance(prices, Mapping):
        return "price book", prices
    path = Path(prices)
    where = f"price book {path.name}"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{where} cannot be read: {type(error).__name__}") from None
    try:
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise UsageError(f"{where} is not valid {path.suffix[1:] or 'toml'}: {error}") from None
    if not isinstance(data, dict):
        raise UsageError(f"{where} holds no table; see PriceBook")
    return where, data


def _row(where: str, book: Mapping[str, Any], data: object, name: str, version: str) -> _Row:
    if not isinstance(data, Mapping):
        raise UsageError(f"{where} is no table of prices")
    _refuse_unknown(where, data, _ROW)
    model = _text(where, data, "model")
    if not model:
        raise UsageError(f'{where} has no model; write a pattern such as "gpt-4o*"')
    provider = _text(where, data, "provider")
    start, end = (_instant(where, data, key) for key in ("valid_from", "valid_until"))
    if start is not None and end is not None and start >= end:
        raise UsageError(f"{where}: valid_until is not after valid_from, so that it never holds")
    currency = data.get("currency", book.get("currency"))
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise UsageError(f'{where} needs a currency such as "USD", got {currency!r}')
    rates = Rates(
        currency=currency,
        source=name,
        version=version,
        row=row_hash(_plain({"currency": currency, **data})),
        tiers=_tiers(where, data),
    )
    return _Row(provider.lower() if provider else None, model.lower(), start, end, rates)


def _tiers(where: str, data: Mapping[str, Any]) -> tuple[Tier, ...]:
    base = _units(where, data)
    for needed in ("input", "output"):
        if needed not in base:
            raise UsageError(f'{where} has no price of {needed}; "0" is one')
    given = data.get("tiers", [])
    if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
        raise UsageError(f"{where}: tiers are a list of tables with `above` and prices")
    if not given:
        return (Tier(base),)
    tiers = [Tier(base, name="base")]
    for index, one in enumerate(given):
        place = f"{where}: tiers[{index}]"
        _refuse_unknown(place, one, _TIER)
        above, last = one.get("above"), tiers[-1].above
        if type(above) is not int or above < 0 or above <= last:
            raise UsageError(f"{place}: above={above!r}; it is a number of tokens, ascending")
        units = _units(place, one)
        if not base.keys() >= units.keys():
            raise UsageError(f"{place} prices a class that its row does not")
        tiers.append(Tier({**base, **units}, above, f"input>{above}"))
    return tuple(tiers)


def _units(where: str, data: Mapping[str, Any]) -> dict[str, int]:
    units = {}
    for name in _PRICES:
        if name in data:
            if not isinstance(data[name], str):
                raise UsageError(
                    f"{where}: {name} is a {type(data[name]).__name__}; write a decimal string"
                    ' such as "2.50", which is exact'
                )
            try:
                units[name] = pico(data[name], 1 if name == REQUEST else 1_000_000)
            except UsageError as error:
                raise UsageError(f"{where}: {name}: {error}") from None
    return units


def _text(where: str, data: Mapping[str, Any], key: str) -> str | None:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{where}: {key} is a {type(value).__name__}; it is a text")
    return value


def _instant(where: str, data: Mapping[str, Any], key: str) -> datetime | None:
    value = data.get(key)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise UsageError(f"{where}: {key}={value!r} is no date such as 2026-01-31") from None
    if value is None or isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise UsageError(f"{where}: {key} is a {type(value).__name__}; it is a date")


def _refuse_unknown(where: str, data: Mapping[str, Any], known: frozenset[str]) -> None:
    strange = sorted(str(key) for key in data if key not in known)
    if strange:
        raise UsageError(f"{where} has {strange[0]!r}; it may have {', '.join(sorted(known))}")


def _plain(value: Any) -> Any:
    """The same data, whether it came from TOML, JSON or Python: dates as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value
