"""A receipt as plain data for keeping: what is true wherever and whenever it is read.

It is `Receipt.to_record()` with two changes. Instants are nanoseconds since the stream was opened, as a machine's own
clock says nothing elsewhere. `reported` in a usage, the provider's own object, is a string of JSON: it may hold floats,
and a string keeps it to the letter; what is too large or no data is left out and named in `left_out`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from streamguard_core.accounting import Usage
from streamguard_core.errors import UsageError
from streamguard_core.receipt import OpenRecord, Receipt

MAX_REPORTED_CHARS: Final = 16 * 1024
"""A provider's usage object larger than this is left out."""


def plain_receipt(receipt: Receipt) -> dict[str, Any]:
    """The receipt as ledgers keep it: the same stream has the same data in all of them.

    Raises:
        UsageError: when it holds an object that is no data at all.
    """
    fields = plain_record(_without_reported(receipt))
    _count_from_opening(fields)
    _write_reported(fields, "usage", receipt.usage)
    for index, attempt in enumerate(receipt.attempts):
        if attempt.usage is not None:
            place = f"attempts.{index}.usage"
            _write_reported(fields, place, attempt.usage, fields["attempts"][index])
    return fields


def plain_record(record: OpenRecord | Receipt) -> dict[str, Any]:
    """`record.to_record()`, whatever map its tags are.

    Raises:
        UsageError: when it holds an object that is no data at all.
    """
    if type(record.tags) is not dict:
        record = msgspec.structs.replace(record, tags=dict(record.tags))
    try:
        return record.to_record()
    except (TypeError, ValueError, RecursionError):
        raise UsageError(
            f"cannot write a record of stream {record.stream_id}: a field holds an object that is"
            " no plain data; give tags as strings"
        ) from None


def _count_from_opening(plain: dict[str, Any]) -> None:
    """Turn every instant into nanoseconds since the stream was opened."""
    start = plain["instants"]["opened_ns"]
    places = [plain["instants"], *plain.get("attempts", ()), *plain.get("history", ())]
    for place in places:
        for key, value in place.items():
            if key.endswith("_ns"):
                place[key] = value - start


def _without_reported(receipt: Receipt) -> Receipt:
    """The same without what providers put into their usage objects, and with tags as a plain map."""

    def bare(usage: Usage) -> Usage:
        return usage if usage.reported is None else msgspec.structs.replace(usage, reported=None)

    attempts = tuple(
        one if one.usage is None else msgspec.structs.replace(one, usage=bare(one.usage))
        for one in receipt.attempts
    )
    return msgspec.structs.replace(receipt, usage=bare(receipt.usage), attempts=attempts)


def _write_reported(
    fields: dict[str, Any], where: str, usage: Usage, place: dict[str, Any] | None = None
) -> None:
    """Write a provider's usage object as text, or say that it was left out."""
    if usage.reported is None:
        return
    text = _as_text(usage.reported)
    if text is None:
        fields.setdefault("left_out", []).append(f"{where}.reported")
    else:
        (fields if place is None else place)["usage"]["reported"] = text


def _as_text(reported: Mapping[str, Any]) -> str | None:
    """A provider's usage object as JSON in its own order; None when it is too large, or no data."""
    try:
        text = json.dumps(dict(reported), separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return None
    return text if len(text) <= MAX_REPORTED_CHARS else None
