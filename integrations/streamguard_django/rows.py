"""Makes rows out of receipts: columns to search and add up by, and the whole receipt as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from django.conf import settings

from streamguard_core import Receipt, Unpriced, UsageError, plain_receipt, to_pico
from streamguard_django.models import StreamReceipt

_MAX_INT: Final = 2**63 - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_OF_THE_STORE: Final = ("v", "kind", "sealed", "records")
"""What a ledger says about a record rather than about its stream."""
_COUNTS: Final = ("value", "lower", "upper")


def row_of(receipt: Receipt) -> StreamReceipt:
    """The row of a receipt that was just sealed.

    Raises:
        UsageError: when it holds an object that is no plain data, or its id is too long for a key.
    """
    return row_from(plain_receipt(receipt))


def row_from(stored: Mapping[str, Any]) -> StreamReceipt:
    """The row of a receipt as a ledger gives it; its data is believed in nothing.

    Raises:
        UsageError: when it has no id, or one that is too long for a key.
    """
    record = {key: item for key, item in stored.items() if key not in _OF_THE_STORE}
    stream_id = record.get("stream_id")
    longest = StreamReceipt._meta.get_field("stream_id").max_length  # noqa: SLF001 - Django's interface
    if not isinstance(stream_id, str) or not stream_id or len(stream_id) > longest:
        raise UsageError(f"a receipt without an id of 1 to {longest} characters cannot be a row")
    columns = {
        **_words(record),
        **_numbers(record),
        **_money(_map(record, "price")),
        **_instants(record),
        **_place(stored),
    }
    return StreamReceipt(
        stream_id=stream_id,
        client_left_early=record.get("client_left_early") is True,
        recovered="recovered_from" in record,
        record=json.dumps(record, sort_keys=True, separators=(",", ":")),
        **columns,
    )


def _words(record: Mapping[str, Any]) -> dict[str, str]:
    tags = _map(record, "tags")
    direct = "cause", "category", "party", "detail", "finish", "close"
    direct += "provider", "model", "request_id"  # type: ignore[assignment]
    found = {name: record.get(name) for name in direct}
    found |= {name: tags.get(name) for name in ("tenant", "route")}
    return {name: _text(name, value) for name, value in found.items()}


def _numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    usage = _map(record, "usage")
    found: dict[str, Any] = {
        name: _int(record.get(name)) for name in ("produced", "committed", "consumed", "late")
    }
    for name, count in (("input", _map(usage, "input")), ("output", _map(record, "output"))):
        names = (f"{name}_tokens", f"{name}_lower", f"{name}_upper")
        for column, part in zip(names, _COUNTS, strict=True):
            found[column] = _int(count.get(part))
        found[f"{name}_source"] = _text(f"{name}_source", count.get("source"))
    found["waste_tokens"] = _int(_map(record, "waste").get("value"))
    found["prevented_at_most"] = _int(_map(record, "prevented").get("upper"))
    attempts = record.get("attempts")
    found["attempts"] = (
        len(attempts) + (_int(record.get("attempts_beyond")) or 0)
        if isinstance(attempts, list)
        else None
    )
    return found


def _money(price: Mapping[str, Any]) -> dict[str, Any]:
    currency = price.get("currency")
    currency = currency if isinstance(currency, str) and len(currency) == 3 else ""
    amounts = {name: _amount(price.get(name)) for name in ("total", "lower", "upper")}
    unpriced = ""
    if amounts["total"] is None or not currency:
        amounts["total"] = None
        unpriced = _text("unpriced", price.get("unpriced")) or Unpriced.UNKNOWN_USAGE.value
    return {
        "cost": amounts["total"],
        "cost_lower": amounts["lower"],
        "cost_upper": amounts["upper"],
        "currency": currency,
        "unpriced": unpriced,
    }


def _instants(record: Mapping[str, Any]) -> dict[str, Any]:
    """Wall clock at the opening, and from there by the stream's own clock."""
    instants = _map(record, "instants")
    opened = _int(record.get("opened_us"))
    start = _int(instants.get("opened_ns")) or 0

    def since(name: str) -> int | None:
        found = _int(instants.get(name))
        return None if found is None else (found - start) // 1000

    def at(name: str) -> datetime | None:
        offset = since(name)
        return None if opened is None or offset is None else _moment(opened + offset)

    took = since("sealed_ns")
    return {
        "opened_at": _moment(opened),
        "first_chunk_at": at("first_chunk_ns"),
        "cutoff_at": at("cutoff_ns"),
        "sealed_at": _moment(_int(record.get("sealed_us"))),
        "duration": None if took is None else timedelta(microseconds=took),
    }


def _place(stored: Mapping[str, Any]) -> dict[str, Any]:
    close = _map(_map(stored, "records"), "close")
    return {"writer": _text("writer", close.get("writer")), "seq": _int(close.get("seq"))}


def _moment(us: int | None) -> datetime | None:
    """An instant in UTC, as the project's databases take it."""
    if us is None:
        return None
    try:
        moment = _EPOCH + timedelta(microseconds=us)
    except OverflowError:
        return None
    return moment if settings.USE_TZ else moment.replace(tzinfo=None)


def _text(column: str, value: object) -> str:
    """A word for a column: what is too long is cut there, and whole in `record`."""
    if not isinstance(value, str):
        return ""
    longest = StreamReceipt._meta.get_field(column).max_length  # noqa: SLF001 - Django's interface
    printable = value.replace("\x00", "\N{REPLACEMENT CHARACTER}")
    return printable.encode("utf-8", "replace").decode()[:longest]


def _int(value: object) -> int | None:
    return value if type(value) is int and abs(value) <= _MAX_INT else None


def _amount(value: object) -> Decimal | None:
    try:
        pico = to_pico(value) if isinstance(value, str) else None
    except UsageError:
        return None
    return None if pico is None or pico > _MAX_INT else Decimal(str(value))


def _map(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = record.get(name)
    return found if isinstance(found, Mapping) else {}
