"""The decoder of JSON arrays."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamguard_providers import JSONArrayDecoder

CASES: list[tuple[str, bytes, list[bytes] | None]] = [
    ("items", b'[{"a":1},{"b":2}]', [b'{"a":1}', b'{"b":2}']),
    ("as Gemini writes it", b'[{\n "a": 1\n}\n,\r\n{"b":2}\n]\n', [b'{\n "a": 1\n}', b'{"b":2}']),
    ("brackets in strings", b'[{"a":"]},{["},{"b":"{"}]', [b'{"a":"]},{["}', b'{"b":"{"}']),
    ("escapes", b'[{"a":"\\"]}\\\\"},{"b\\"":2}]', [b'{"a":"\\"]}\\\\"}', b'{"b\\"":2}']),
    ("nested", b'[{"a":[{"b":[]}]},[[1],2]]', [b'{"a":[{"b":[]}]}', b"[[1],2]"]),
    ("scalars", b'[1, "a,]" ,null]', [b"1", b'"a,]"', b"null"]),
    ("no item", b"[ ]", []),
    ("nothing", b"", []),
    ("blanks before it", b'\r\n\t [{"a":1}]', [b'{"a":1}']),
    ("BOM", b'\xef\xbb\xbf[{"a":1}]', [b'{"a":1}']),
    ("BOM and blanks", b'\xef\xbb\xbf \n[{"a":1}]', [b'{"a":1}']),
    ("no mark after blanks", b' \xef\xbb\xbf{"a":1}', [b'\xef\xbb\xbf{"a":1}']),
    ("a bare object", b'{\n "error": {"code": 400}\n}\n', [b'{\n "error": {"code": 400}\n}']),
    ("objects one after another", b'{"a":1}\n{"b":2}', [b'{"a":1}', b'{"b":2}']),
    ("no closing bracket", b'[{"a":1},{"b":2}', [b'{"a":1}', b'{"b":2}']),
    ("half an item", b'[{"a":1},{"b":', [b'{"a":1}']),
    ("half a string", b'[{"a":1},{"b', [b'{"a":1}']),
    ("half an escape", b'[{"a":1},{"b\\', [b'{"a":1}']),
    ("half a scalar", b'[{"a":1},tru', [b'{"a":1}']),
    ("more after the end", b'[{"a":1}] {"b":2}', [b'{"a":1}']),
    ("too many commas", b'[,{"a":1},,{"b":2},]', [b'{"a":1}', b'{"b":2}']),
    ("a stray brace", b'[}{"a":1}]', [b'}{"a":1}']),
    ("deeper than usual", b"[" + b'{"a":' * 99 + b"1" + b"}" * 99 + b',{"b":2}]', None),
    ("not ASCII", '[{"ü":"🌍"},{"b":"\u2028"}]'.encode(), None),
]


def compact(document: Any) -> bytes:
    """A document as it stands in the cases."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def items(data: bytes, *places: int) -> list[bytes]:
    """The items of a body that is cut at some places."""
    decoder = JSONArrayDecoder()
    got: list[bytes] = []
    for start, stop in zip([0, *places], [*places, len(data)], strict=True):
        got += decoder.feed(data[start:stop])
    return got + decoder.close()


@pytest.mark.parametrize(("data", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_items(data: bytes, expected: list[bytes] | None) -> None:
    """Items end with their last byte, whatever stands in their strings, wherever they are cut."""
    if expected is None:
        expected = [compact(item) for item in json.loads(data)]
    assert items(data) == expected
    assert items(data, *range(1, len(data))) == expected
    for place in range(len(data) + 1):
        assert items(data, place) == expected, place


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"\\{}[],é\u2028🌍\n', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('k"\\]', max_size=3), inner)
    ),
    max_leaves=12,
)


@given(st.lists(DOCUMENTS, max_size=4), st.sampled_from([None, 1]), st.booleans(), st.data())
@settings(deadline=None)
def test_cuts_make_no_difference(
    said: list[Any], indent: int | None, ascii_only: bool, data: st.DataObject
) -> None:
    """What is in an array is what comes out, in random pieces too."""
    stream = json.dumps(said, indent=indent, ensure_ascii=ascii_only).encode()
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    assert [json.loads(item) for item in items(stream, *places)] == said


@given(st.binary(max_size=60) | st.text('[]{},"\\ a', max_size=60).map(str.encode), st.data())
def test_what_is_no_json_is_cut_alike(stream: bytes, data: st.DataObject) -> None:
    """Nonsense raises nothing, and where it is cut makes no difference either."""
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    assert items(stream, *places) == items(stream)


def test_an_item_does_not_wait_for_the_comma() -> None:
    """An item is handed over in the call that brings its last byte."""
    decoder = JSONArrayDecoder()
    assert decoder.feed(b'[{"a":{}') == []
    assert decoder.feed(b"}") == [b'{"a":{}}']


def test_many_items_are_no_large_item() -> None:
    """The limit is for one item; what is between items does not count at all."""
    decoder = JSONArrayDecoder(max_item_bytes=10)
    assert len(decoder.feed(b"[" + b'{"a":1} , ' * 1000)) == 1000
    for _ in range(100):
        assert decoder.feed(b" " * 1000) == []
    assert decoder.feed(b'{"b":2}]') == [b'{"b":2}']


@pytest.mark.parametrize("piece", [b"\\n", b'\\"', b"x", b"}"])
def test_a_long_string_costs_its_size(piece: bytes) -> None:
    """A string of escapes is passed over without keeping anything per escape."""
    data = b'[{"a":"' + piece * 500_000 + b'"}]'
    tracemalloc.start()
    try:
        assert len(JSONArrayDecoder().feed(data)) == 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(data)


def test_blanks_before_the_array_are_not_kept() -> None:
    """Blanks that a server sends to keep a connection alive cost nothing, however many there are."""
    decoder = JSONArrayDecoder()
    tracemalloc.start()
    try:
        for _ in range(100):
            assert decoder.feed(b" " * 65_536) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert decoder.feed(b"[1]") == [b"1"]


def test_says_how_it_ended() -> None:
    """A missing bracket is told of, an item cut in half is dropped and told of."""
    whole, open_, half = JSONArrayDecoder(), JSONArrayDecoder(), JSONArrayDecoder()
    whole.feed(b'[{"a":1}]')
    open_.feed(b'[{"a":1}')
    half.feed(b'[{"a":')
    for decoder, unterminated, truncated in (
        (whole, False, False),
        (open_, True, False),
        (half, True, True),
    ):
        assert decoder.close() == []
        assert (decoder.unterminated, decoder.truncated) == (unterminated, truncated)
    assert whole.offset == 9
