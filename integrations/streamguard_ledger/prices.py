"""Public list prices, from the installed genai-prices; importing it needs the extra `prices`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from streamguard_core import Price, Unpriced, Usage
from streamguard_ledger.price_book import PriceBook
from streamguard_ledger.rating import REQUEST, Rates, Tier, pico, rated, row_hash
from streamguard_ledger.supported import INSTALL_PRICES

try:
    import genai_prices
    from genai_prices.data import providers
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices
except ImportError as error:
    raise ImportError(f"streamguard_ledger.prices needs genai-prices: {INSTALL_PRICES}") from error

__all__ = ["GenaiPrices", "PriceBook"]

_KEYS: Final = {
    "input_mtok": "input",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
    "requests_kcount": REQUEST,
}
"""What of a row is used: prices of text tokens and of calls. Searches, pages and hours are no tokens."""
_KINDS: Final = re.compile("audio|image|video")
_NAMES: Final = {
    "aws-bedrock": "aws",
    "azure-openai": "azure",
    "bedrock": "aws",
    "gemini": "google",
    "google-vertex": "google",
    "vertex": "google",
    "xai": "x-ai",
}
"""Our names of providers, where they are others than those of the list."""
_UNKNOWN: Final = Price(unpriced=Unpriced.UNKNOWN_MODEL)
_NOT_BY_TOKENS: Final = Price(unpriced=Unpriced.UNKNOWN_USAGE)


class GenaiPrices:
    """List prices of the genai-prices package that is installed: never from the network, never updated.

    The price is that of the time of the call. A provider is found by its name or by the host that was
    called, never by a likeness; without one the model's name decides. What the list does not know is
    UNPRICED. Amounts are USD.

    A unit price that has more than 12 decimal places (the list has some, from rounding elsewhere) is
    rounded half to even, once, per token; what stands on the receipt adds up exactly.

    Args:
        context: selects special prices of the list, such as `{"service_tier": "flex"}`.

    Example:
        >>> from datetime import UTC, datetime
        >>> usage = Usage.reported_by_provider(input=1_000_000, output=0)
        >>> for day in (1, 12):
        ...     print(GenaiPrices().price("openai", "o3", usage, datetime(2025, 6, day, tzinfo=UTC)).total)
        10.000000000000
        2.000000000000
    """

    def __init__(self, *, context: Mapping[str, str] | None = None) -> None:
        self._context = dict(context) if context else None
        self._found = lru_cache(maxsize=1024)(_find)

    def __repr__(self) -> str:
        return f"<GenaiPrices {genai_prices.__version__}>"

    def price(self, provider: str | None, model: str | None, usage: Usage, at: datetime) -> Price:
        """See `Pricer`."""
        found = None if model is None else self._found(provider, model)
        if found is None:
            return _UNKNOWN
        rates = self._rates(*found, at)
        if not rates.tiers[0].units:
            # Paid by the hour or the page, which no usage of ours counts: that is not 0.
            return _NOT_BY_TOKENS
        return rated(usage, rates, written_1h=_written_1h(usage))

    def _rates(self, provider: Provider, model: ModelInfo, at: datetime) -> Rates:
        # A provider that passes another one's model on has the standard price of it, no variants.
        own = any(one is model for one in provider.models)
        row = model.get_prices(at, self._context if own else None)
        data = {
            "provider": provider.id,
            "model": model.id,
            "prices": {key: _plain(price) for key, price in _entries(row).items()},
        }
        return Rates(
            currency="USD",
            source="genai-prices",
            version=genai_prices.__version__,
            row=row_hash(data),
            tiers=_tiers(row, self._name(row, model, at) if own else None),
            by_kind=any(_KINDS.search(key) for key in _entries(row)),
        )

    def _name(self, row: ModelPrice, model: ModelInfo, at: datetime) -> str | None:
        """What the context has selected, if it made a difference."""
        if self._context is None or row == model.get_prices(at):
            return None
        return ",".join(f"{key}={value}" for key, value in sorted(self._context.items()))


def _find(provider: str | None, model: str) -> tuple[Provider, ModelInfo] | None:
    name = model.lower()
    if provider is None:
        candidates = [
            one for one in providers if one.model_match and one.model_match.is_match(name)
        ]
    else:
        candidates = [one for one in providers if _is_called(one, provider.lower())]
    for candidate in candidates[:1]:
        found = candidate.find_model(name, all_providers=providers)
        if found is not None:
            return candidate, found
    return None


def _is_called(provider: Provider, name: str) -> bool:
    """True for its name, and for a host of its API."""
    if "." in name:
        return re.fullmatch(provider.api_pattern, f"https://{name}") is not None
    return provider.id == _NAMES.get(name, name)


def _entries(row: ModelPrice) -> dict[str, Decimal | TieredPrices]:
    return {key: price for key, price in sorted(vars(row).items()) if price is not None}


def _plain(price: Decimal | TieredPrices) -> Any:
    if isinstance(price, TieredPrices):
        tiers = [{"start": tier.start, "price": str(tier.price)} for tier in price.tiers]
        return {"base": str(price.base), "tiers": tiers}
    return str(price)


def _tiers(row: ModelPrice, variant: str | None) -> tuple[Tier, ...]:
    """The whole row at each of its edges: a call is beyond an edge from one token more on."""
    used = {name: price for key, price in _entries(row).items() if (name := _KEYS.get(key))}
    edges = {
        tier.start for one in used.values() if isinstance(one, TieredPrices) for tier in one.tiers
    }
    tiers = []
    for above in [-1, *sorted(edges)]:
        edge = None if not edges else "base" if above < 0 else f"input>{above}"
        units = {name: _unit(name, price, above) for name, price in used.items()}
        name = ",".join(one for one in (variant, edge) if one)
        tiers.append(Tier(units, above, name or None))
    return tuple(tiers)


def _unit(name: str, price: Decimal | TieredPrices, above: int) -> int:
    if isinstance(price, TieredPrices):
        reached = [tier.price for tier in price.tiers if tier.start <= above]
        price = reached[-1] if reached else price.base
    return pico(price, 1_000 if name == REQUEST else 1_000_000, exact=False)


def _written_1h(usage: Usage) -> int:
    """Anthropic tells apart how long a cache write is kept, in its own object only."""
    kept = (usage.reported or {}).get("cache_creation")
    tokens = kept.get("ephemeral_1h_input_tokens") if isinstance(kept, Mapping) else None
    return tokens if type(tokens) is int and tokens > 0 else 0
