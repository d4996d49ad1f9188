"""The decoder of newline-delimited JSON."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamguard_providers import NDJSONDecoder

CASES = [
    ("lines", b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
    ("CRLF", b'{"a":1}\r\n', [b'{"a":1}']),
    ("blank lines are nothing", b'\n\r\n{"a":1}\n \n', [b'{"a":1}']),
    ("only LF ends a line", '{"a":"\u2028\x85"}\n'.encode(), ['{"a":"\u2028\x85"}'.encode()]),
    ("BOM", b'\xef\xbb\xbf{"a":1}\n', [b'{"a":1}']),
    ("a whole last line", b'{"a":1}\n{"b":2}', [b'{"a":1}', b'{"b":2}']),
    ("half a last line", b'{"a":1}\n{"b":', [b'{"a":1}']),
    ("nothing", b"", []),
]


@pytest.mark.parametrize(("data", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_lines(data: bytes, expected: list[bytes], size: int) -> None:
    """Lines end at LF only, blank ones are nothing, and a last one counts if it is whole."""
    decoder = NDJSONDecoder()
    lines = [x for at in range(0, len(data), size) for x in decoder.feed(data[at : at + size])]
    assert lines + decoder.close() == expected


@given(st.lists(st.sampled_from([b'{"a":1}', b"", '{"ü":1}'.encode(), b"\r"])), st.data())
def test_cuts_make_no_difference(lines: list[bytes], data: st.DataObject) -> None:
    """However the bytes are cut, the lines are the same."""
    stream = b"\n".join(lines)
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=6).map(sorted))
    whole, pieces = NDJSONDecoder(), NDJSONDecoder()
    expected = whole.feed(stream) + whole.close()
    got: list[bytes] = []
    for start, stop in zip([0, *places], [*places, len(stream)], strict=True):
        got += pieces.feed(stream[start:stop])
    assert got + pieces.close() == expected
    assert pieces.truncated == whole.truncated


def test_says_how_it_ended() -> None:
    """A whole last line without its end is handed over and told of; half of one is dropped and told of."""
    whole, half = NDJSONDecoder(), NDJSONDecoder()
    whole.feed(b"{}")
    half.feed(b"{")
    assert (whole.close(), whole.unterminated, whole.truncated) == ([b"{}"], True, False)
    assert (half.close(), half.unterminated, half.truncated) == ([], False, True)
