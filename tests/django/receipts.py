"""Receipts for the tests of the mirror, the admin and the commands."""

from __future__ import annotations

from typing import Any

from streamguard_core import (
    Attempt,
    Cause,
    CloseState,
    Count,
    CountSource,
    Instants,
    OpenRecord,
    Price,
    Receipt,
    Usage,
)

OPENED_US = 1_700_000_000_000_000  # 2023-11-14 22:13:20 UTC


def price(total: str, currency: str = "USD") -> Price:
    """An exact price."""
    return Price(
        total=f"{total:0<14}" if "." in total else f"{total}.{'0' * 12}", currency=currency
    )


def receipt_of(stream_id: str = "s0", **fields: Any) -> Receipt:
    """A receipt of a stream that its reader left."""
    cause = fields.get("cause", Cause.CLIENT_DISCONNECT)
    usual: dict[str, Any] = {
        "cause": cause,
        "party": cause.party,
        "produced": 9,
        "committed": 7,
        "consumed": 6,
        "late": 0,
        "close": CloseState.CONFIRMED,
        "instants": Instants(
            opened_ns=2**60,
            first_chunk_ns=2**60 + 250_000_000,
            cutoff_ns=2**60 + 1_000_000_000,
            sealed_ns=2**60 + 1_500_000_000,
        ),
        "opened_us": OPENED_US,
        "sealed_us": OPENED_US + 1_500_000,
        "provider": "openai",
        "model": "gpt-5-nano",
        "request_id": f"req-{stream_id}",
        "tags": {"tenant": "acme", "route": "/chat"},
        "usage": Usage.reported_by_provider(input=11, output=9, reported={"cost": 0.5}),
        "output": Count.exact(9, CountSource.PROVIDER_FINAL),
        "attempts": (Attempt(provider="openai"),),
    }
    return Receipt(stream_id=stream_id, **{**usual, **fields})


def keep(ledger: Any, *receipts: Receipt) -> None:
    """Write receipts into a ledger, each after its OPEN."""
    for receipt in receipts:
        opened = OpenRecord(
            stream_id=receipt.stream_id,
            opened_us=receipt.opened_us,
            model=receipt.model,
            provider=receipt.provider,
            tags=receipt.tags,
        )
        ledger.append_open(opened).result()
        ledger.append_close(receipt).result()
