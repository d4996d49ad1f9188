"""What a record says, and how a receipt becomes one without being lost."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest

from streamguard_core import (
    Attempt,
    Cause,
    Count,
    CountSource,
    OpenRecord,
    Party,
    Price,
    PricePart,
    Receipt,
    Signal,
    Usage,
    UsageError,
)
from streamguard_ledger import canonical, records
from streamguard_ledger.numbers import contradictions
from streamguard_ledger.records import Draft, Ref, close_draft, crashed_draft, open_draft

Opening = Callable[..., OpenRecord]
Closing = Callable[..., Receipt]
PLACE: dict[str, Any] = {"log": "l", "writer": "w", "seq": 3, "prev": "p", "record_id": "r"}
ZERO = "0.000000000000"
OPENED = Ref("w", 1, "ab")


def _written(draft: Draft) -> dict[str, Any]:
    return canonical.decode(draft.body(**PLACE))


def test_an_open_says_what_is_known_before_the_call(opening: Opening) -> None:
    """An OPEN holds stream, time, model, limit and tags, and its place in the chain."""
    record = opening("s9", model="m", provider="p", max_tokens=7, tags={"tenant": "a"})
    assert _written(open_draft(record)) == {
        "v": 1,
        "kind": "OPEN",
        "stream_id": "s9",
        "opened_us": record.opened_us,
        "model": "m",
        "provider": "p",
        "max_tokens": 7,
        "tags": {"tenant": "a"},
        **PLACE,
    }


def test_a_receipt_says_everything_and_refers_to_its_open(closing_of: Closing) -> None:
    """A CLOSE holds the receipt's fields, the category, and where the OPEN is."""
    said = _written(close_draft(closing_of(finish="stop", tags={"a": "b"}), OPENED))
    assert said["kind"] == "CLOSE"
    assert said["open_ref"] == {"writer": "w", "seq": 1, "hash": "ab"}
    assert (said["cause"], said["category"], said["finish"]) == (
        "CLIENT_DISCONNECT",
        "user",
        "stop",
    )
    assert (said["produced"], said["committed"], said["consumed"], said["late"]) == (9, 7, 6, 1)
    assert "left_out" not in said


def test_unknown_is_absent_and_zero_is_zero(closing_of: Closing) -> None:
    """P30: a provider's explicit zero is written, and what it did not say is not there (G12)."""
    usage = Usage.reported_by_provider(output=0)
    said = _written(close_draft(closing_of(usage=usage), None))
    assert said["usage"]["output"]["value"] == 0
    assert "value" not in said["usage"]["input"]
    assert "open_ref" not in said


def test_instants_count_from_the_opening(closing_of: Closing) -> None:
    """A machine that runs for longer than 2^53 nanoseconds still writes exact instants."""
    start = closing_of().instants.opened_ns
    assert start > 2**53
    signal = Signal(Cause.USER_CANCEL, Party.CONSUMER, "", at_ns=start + 5)
    attempt = Attempt(started_ns=start + 1, closed_ns=start + 9)
    said = _written(close_draft(closing_of(history=(signal,), attempts=(attempt,)), None))
    assert said["instants"] == {"opened_ns": 0, "first_chunk_ns": 7, "sealed_ns": 11}
    assert said["history"][0]["at_ns"] == 5
    assert (said["attempts"][0]["started_ns"], said["attempts"][0]["closed_ns"]) == (1, 9)
    assert "left_out" not in said


def test_reported_usage_is_kept_to_the_letter(closing_of: Closing) -> None:
    """A provider's own object may nest and hold floats, nulls and strange keys: it is a string."""
    reported = {"z": 1.5, "a": {"é": None, "n": [1, 2**70]}, "s": "\ud800"}
    said = _written(close_draft(closing_of(usage=Usage(reported=reported)), None))
    assert json.loads(said["usage"]["reported"]) == reported
    assert list(json.loads(said["usage"]["reported"])) == ["z", "a", "s"]


def test_what_an_attempt_s_provider_reported_is_kept_as_well(closing_of: Closing) -> None:
    """Each attempt has its provider's own object as text; what cannot be kept is named with its place."""
    kept, lost = {"cost": 1.5}, {"cost": Decimal(1)}
    attempts = (
        Attempt(),
        Attempt(usage=Usage(reported=kept)),
        Attempt(usage=Usage(reported=lost)),
        Attempt(usage=Usage.reported_by_provider(output=1)),
    )
    said = _written(close_draft(closing_of(attempts=attempts), None))
    assert json.loads(said["attempts"][1]["usage"]["reported"]) == kept
    assert "reported" not in said["attempts"][2]["usage"]
    assert said["left_out"] == ["attempts.2.usage.reported"]
    assert said["attempts"][3]["usage"]["output"]["value"] == 1


def test_prices_are_written_to_the_last_digit(closing_of: Closing) -> None:
    """Amounts are strings, which no reader rounds; the record verifies."""
    unit, amount = "0.000002500000", "9007199254740993.000002500000"
    price = Price(
        total=amount,
        currency="USD",
        parts={
            "input": PricePart(amount=amount),
            "output": PricePart(tokens=0, unit=unit, amount=ZERO),
        },
        row="ab" * 32,
        tier="base",
    )
    said = _written(close_draft(closing_of(attempts=(Attempt(price=price),), price=price), None))
    assert (
        said["price"]
        == said["attempts"][0]["price"]
        == {
            "total": amount,
            "currency": "USD",
            "parts": {
                "input": {"amount": amount},
                "output": {"tokens": 0, "unit": unit, "amount": ZERO},
            },
            "row": "ab" * 32,
            "tier": "base",
        }
    )
    assert "left_out" not in said
    assert list(contradictions(said)) == []


@pytest.mark.parametrize(
    "reported",
    [{"a": "x" * 20_000}, {"a": Decimal(1)}, {(1, 2): 3}],
    ids=["large", "no data", "no key"],
)
def test_reported_usage_that_cannot_be_kept_is_named(
    closing_of: Closing, reported: dict[Any, Any]
) -> None:
    """What is too large or no data is left out and named; the receipt is written."""
    said = _written(close_draft(closing_of(usage=Usage(reported=reported)), None))
    assert said["left_out"] == ["usage.reported"]
    assert "reported" not in said["usage"]


def test_a_receipt_is_written_without_the_field_that_cannot_be(closing_of: Closing) -> None:
    """A hostile provider's number, tag or text never costs the receipt: it is named instead."""
    receipt = closing_of(
        usage=Usage(output=Count(2**60, 0, None, CountSource.PROVIDER_FINAL)),
        tags=MappingProxyType({"é": "x", "ok": "y"}),
        detail="cut \ud800 off",
    )
    said = _written(close_draft(receipt, None))
    assert said["left_out"] == ["usage.output.value", "tags.'\\xe9'"]
    assert said["tags"] == {"ok": "y"}
    assert said["detail"] == "cut \\ud800 off"
    assert said["usage"]["output"] == {"lower": 0, "source": "provider_final"}


def test_the_names_of_what_was_left_out_are_bounded(closing_of: Closing) -> None:
    """A thousand strange tags do not make a thousand names."""
    receipt = closing_of(tags={f"é{number}": "x" for number in range(1000)})
    said = _written(close_draft(receipt, None))
    assert len(said["left_out"]) == records.MAX_LEFT_OUT


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"tags": {"é": "x"}}, "not ASCII"),
        ({"tags": {"a": 1.5}}, "float"),
        ({"max_tokens": 2**60}, "beyond"),
        ({"tags": {"a": object()}}, "plain data"),
        ({"tags": {"a": "x" * 70_000}}, "fewer or shorter tags"),
    ],
)
def test_an_open_that_cannot_be_written_is_refused(
    opening: Opening, fields: dict[str, Any], why: str
) -> None:
    """Nothing was spent yet, so an OPEN is written as it is or not at all."""
    with pytest.raises(UsageError, match=why):
        open_draft(opening(**fields)).body(**PLACE)


def test_tags_may_be_any_mapping(opening: Opening) -> None:
    """A read-only mapping is as good as a dict."""
    draft = open_draft(opening(tags=MappingProxyType({"a": "b"})))
    assert _written(draft)["tags"] == {"a": "b"}


def test_a_receipt_with_an_object_in_it_is_refused(closing_of: Closing) -> None:
    """What is no data at all cannot be written; the error says what to do."""
    with pytest.raises(UsageError, match=r"stream s0.*give tags as strings"):
        close_draft(closing_of(tags={"a": object()}), None)


def test_a_crashed_receipt_has_bounds_and_no_values() -> None:
    """P20: nobody knows what was generated: between nothing and the limit of the OPEN (G12)."""
    opened = {"stream_id": "s", "opened_us": 4, "max_tokens": 100, "model": "m", "tags": {}}
    said = _written(crashed_draft(opened, OPENED))
    bounds = {"lower": 0, "upper": 100, "source": "none"}
    assert said["output"] == said["waste"] == said["prevented"] == bounds
    assert not {"produced", "committed", "consumed", "late", "usage"} & set(said)
    assert (said["cause"], said["category"], said["party"]) == ("CRASHED", "system", "SERVER")
    assert said["recovered_from"] == {"writer": "w", "seq": 1}
    assert said["open_ref"] == OPENED.to_data()
    assert (said["opened_us"], said["model"], said["tags"]) == (4, "m", {})


def test_a_crashed_receipt_without_a_limit_has_no_upper_bound() -> None:
    """Without max_tokens nobody can say how much it was at most."""
    said = _written(crashed_draft({"stream_id": "s", "opened_us": 4}, OPENED))
    assert said["output"] == {"lower": 0, "source": "none"}


def test_ids_are_of_version_7_and_sort_by_time() -> None:
    """Ids are unique, and files and records made later sort later."""
    ids = [records.new_id() for _ in range(100)]
    assert {(one.version, one.variant) for one in ids} == {(7, uuid.RFC_4122)}
    assert len(set(ids)) == 100
    stamps = [one.int >> 64 for one in ids]
    assert stamps == sorted(stamps)
    assert abs((ids[0].int >> 80) - time.time() * 1000) < 60_000


@pytest.mark.parametrize("data", [None, {}, {"writer": "w", "seq": "1", "hash": "x"}, [1]])
def test_a_broken_reference_is_none(data: object) -> None:
    """What is no reference is read as none, not as an error."""
    assert Ref.of(data) is None
    assert Ref.of(OPENED.to_data()) == OPENED
