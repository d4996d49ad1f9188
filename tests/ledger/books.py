"""Price books of a few rows, and what they say of a usage."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from streamguard_core import (
    Price,
    Usage,
)
from streamguard_ledger import PriceBook

NOW = datetime(2026, 6, 1, tzinfo=UTC)


USAGE = Usage.reported_by_provider(input=1_000_000, output=1_000_000)


FULL = {
    "model": "m",
    "input": "2",
    "cached_input": "0.5",
    "cache_write": "2.5",
    "output": "10",
    "reasoning": "12",
    "request": "0.001",
}


def book(*rows: dict[str, Any], **rest: Any) -> PriceBook:
    """A book of these rows, in USD."""
    return PriceBook({"currency": "USD", "prices": list(rows)}, **rest)


def cost(rows: PriceBook, usage: Usage = USAGE, model: str = "m", at: datetime = NOW) -> Price:
    """What the book says of a usage."""
    return rows.price("p", model, usage, at)


def row(**said: Any) -> dict[str, Any]:
    """A row with what it must have."""
    return {"model": "m", "input": "1", "output": "2", **said}


def cumulative(tokens: int, output: int) -> Usage:
    """Numbers that may still have grown when the stream was cut off."""
    return Usage.reported_by_provider(input=tokens, output=output, final=False)
