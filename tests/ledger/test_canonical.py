"""One value has one spelling in bytes, and what has none is refused."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamguard_ledger import NotCanonical, canonical

MAX = 2**53 - 1
KEYS = st.text(st.characters(max_codepoint=127), max_size=8)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.booleans() | st.integers(-MAX, MAX) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
RECORDS = st.dictionaries(KEYS, VALUES, max_size=6)


class _Level(IntEnum):
    HIGH = 1


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


@settings(deadline=None)
@given(RECORDS)
def test_bytes_are_those_of_the_standard_library(record: dict[str, Any]) -> None:
    """P53: the bytes are those of any encoder that sorts keys and adds nothing."""
    if _depth(record) > canonical.MAX_DEPTH:
        return
    expected = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert canonical.encode(record) == expected.encode()


@settings(deadline=None)
@given(RECORDS)
def test_decode_reverses_encode(record: dict[str, Any]) -> None:
    """What was written is read back as it was, and its order of keys does not matter."""
    if _depth(record) > canonical.MAX_DEPTH:
        return
    body = canonical.encode(record)
    assert canonical.decode(body) == record
    assert canonical.encode(dict(reversed(record.items()))) == body


@settings(deadline=None)
@given(RECORDS, st.data())
def test_a_changed_byte_is_refused_or_says_something_else(
    record: dict[str, Any], data: st.DataObject
) -> None:
    """No two spellings say the same."""
    if _depth(record) > canonical.MAX_DEPTH:
        return
    body = bytearray(canonical.encode(record))
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        changed = canonical.decode(bytes(body))
    except NotCanonical:
        return
    assert changed != record or repr(changed) != repr(record)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (1.0, "is of type float"),
        (float("nan"), "is of type float"),
        (None, "is of type NoneType"),
        (b"x", "is of type bytes"),
        (_Level.HIGH, "is of type _Level"),
        (MAX + 1, "is an integer beyond"),
        (-MAX - 1, "is an integer beyond"),
        ("\ud800", "is a string with a lone surrogate"),
        ({"schlüssel": 1}, "has a key that is not ASCII text"),
        ({1: 1}, "has a key that is not ASCII text"),
        ([[[[[[[[1]]]]]]]], "is nested deeper"),
    ],
)
def test_what_has_no_canonical_bytes_is_refused(value: Any, why: str) -> None:
    """P53: floats, nulls, large integers, foreign types and keys are refused, with their place."""
    with pytest.raises(NotCanonical, match=rf"cannot write a\.1.*{why}.*; give ASCII keys"):
        canonical.encode({"a": ["fine", value]})


def test_a_refusal_names_the_place_and_not_the_value() -> None:
    """Values may be secret; they are not repeated."""
    with pytest.raises(NotCanonical) as caught:
        canonical.encode({"tags": {"x": "sk-secret\ud800"}})
    assert "tags.x" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_bounds_themselves_are_accepted() -> None:
    """+-(2^53-1) and the deepest nesting are inside."""
    assert canonical.decode(canonical.encode({"a": MAX, "b": -MAX})) == {"a": MAX, "b": -MAX}
    deep: Any = 1
    for _ in range(canonical.MAX_DEPTH):
        deep = {"a": deep}
    assert canonical.decode(canonical.encode(deep)) == deep


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'{"a":1, "b":2}',
        b'{"b":1,"a":2}',
        b'{"a":1}\n',
        b'{"a":1.0}',
        b'{"a":1e2}',
        b'{"a":-0}',
        b'{"a":null}',
        b'{"a":9007199254740992}',
        b'{"a":"\\u0062"}',
        b'{"a":"\\/"}',
        b'{"a":"\xff"}',
        b'{"\xc3\xa9":1}',
        b'{"a":' + b"[" * 9 + b"]" * 9 + b"}",
        b'{"a":' * 100_000,
        b'{"a":1e999}',
        b'"a"',
        b"[]",
        b"",
        b"{",
    ],
)
def test_other_spellings_are_refused(body: bytes) -> None:
    """P50: equal keys, white space, another order, floats and malformed bytes are refused."""
    with pytest.raises(NotCanonical):
        canonical.decode(body)


def test_fitting_leaves_out_only_what_cannot_be_written() -> None:
    """A record that cannot be written whole is written without the fields that are in the way."""
    record = {
        "good": [1, {"x": "y"}],
        "large": {"value": 2**60, "source": "s"},
        "list": [1, 1.5, "\udc00z"],
        "tags": {"é": "1", "b": "2"},
        "deep": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}}}},
    }
    fitted, left_out = canonical.fitting(record)
    assert canonical.decode(canonical.encode(fitted)) == fitted
    assert fitted["good"] == record["good"]
    assert fitted["large"] == {"source": "s"}
    assert fitted["list"] == [1, "\\udc00z"]
    assert fitted["tags"] == {"b": "2"}
    assert left_out == ["large.value", "list.1", "tags.'\\xe9'", "deep.a.a.a.a.a.a.a"]
