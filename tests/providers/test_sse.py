"""The decoder of server-sent events."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamguard_providers import EventTooLarge, SSEDecoder, SSEEvent

from .decoding import CORPORA, cuts

FEEDS = ("whole", "bytes", "random", "given")


def read(data: bytes, how: str = "whole", sizes: list[int] | None = None) -> tuple[Any, ...]:
    """Decode and return what the standard speaks of."""
    decoder = SSEDecoder()
    pieces = list(cuts(data, "random" if how == "given" else how))
    if how == "given" and sizes:
        ends = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
        pieces = [data[a:b] for a, b in zip(ends, [*ends[1:], len(data)], strict=True)]
    events = [event for piece in pieces for event in decoder.feed(piece)]
    events += decoder.close()
    return (
        [(e.type, e.text, e.id.decode("utf-8", "replace"), e.retry) for e in events],
        decoder.last_event_id.decode("utf-8", "replace"),
        decoder.retry,
        decoder.comments,
    )


CASES = [
    ("one event", b"data: a\n\n", [("message", "a", "", None)]),
    ("no space", b"data:a\n\n", [("message", "a", "", None)]),
    ("two spaces: one is data", b"data:  a\n\n", [("message", " a", "", None)]),
    ("lines are joined", b"data: a\ndata: b\n\n", [("message", "a\nb", "", None)]),
    ("an empty data line is an event", b"data\n\n", [("message", "", "", None)]),
    ("CRLF", b"data: a\r\n\r\ndata: b\r\n\r\n", [("message", x, "", None) for x in "ab"]),
    ("CR", b"data: a\r\rdata: b\r\r", [("message", x, "", None) for x in "ab"]),
    ("mixed", b"data: a\n\r\ndata: b\r\n\n", [("message", x, "", None) for x in "ab"]),
    ("BOM", b"\xef\xbb\xbfdata: a\n\n", [("message", "a", "", None)]),
    ("a second BOM is data", b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
    ("name", b"event: x\ndata: a\n\n", [("x", "a", "", None)]),
    ("no data, no event", b"event: x\n\ndata: a\n\n", [("message", "a", "", None)]),
    (
        "no data beside two",
        b"event: x\n\nevent: y\ndata: a\ndata: b\n\n",
        [("y", "a\nb", "", None)],
    ),
    ("id persists", b"id: 7\ndata: a\n\ndata: b\n\n", [("message", x, "7", None) for x in "ab"]),
    ("id without data is committed", b"id: 7\n\ndata: a\n\n", [("message", "a", "7", None)]),
    ("NUL in id", b"id: a\0b\ndata: a\n\n", [("message", "a", "", None)]),
    ("retry", b"retry: 0040\ndata: a\n\n", [("message", "a", "", 40)]),
    ("no number", b"retry: +5\ndata: a\n\n", [("message", "a", "", None)]),
    ("absurd number", b"retry: " + b"9" * 5000 + b"\ndata: a\n\n", [("message", "a", "", None)]),
    ("comment", b": hi\n\ndata: a\n\n", [("message", "a", "", None)]),
    ("comment within", b"data: a\n: hi\ndata: b\n\n", [("message", "a\nb", "", None)]),
    ("unknown names", b"Data: x\n data: y\ndata : z\n\n", []),
    ("other line ends are data", "data: a\u2028b\x0b\x0c\n\n".encode(), None),
    ("invalid UTF-8", b"data: \xff\n\n", [("message", "\ufffd", "", None)]),
    ("whole JSON at the end", b'data: {"a":1}', [("message", '{"a":1}', "", None)]),
    ("the marker at the end", b"data: [DONE]\n", [("message", "[DONE]", "", None)]),
    ("half of JSON at the end", b'data: {"a":', []),
    ("no JSON at the end", b"data: a\n", []),
    ("a number may have been cut", b"data: 12", []),
]


@pytest.mark.parametrize("how", FEEDS[:3])
@pytest.mark.parametrize(("data", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_reads_as_the_standard_says(data: bytes, expected: Any, how: str) -> None:
    """Each rule of the standard holds, and our rule for the end, however the bytes are cut."""
    if expected is None:
        expected = [("message", data.decode()[6:-2], "", None)]
    assert read(data, how)[0] == expected


def corpus(name: str) -> list[dict[str, Any]]:
    """The records of a shared corpus; none where it is absent."""
    path = CORPORA / name
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


@pytest.mark.skipif(not CORPORA.exists(), reason="the shared corpora are not here")
@pytest.mark.parametrize("how", FEEDS)
def test_corpus_of_cases(how: str) -> None:
    """Every case of the corpus is read right, in four feeds."""
    wrong = []
    for case in corpus("sse-cases.jsonl"):
        expect = case["expect"]
        events = [(e["event"], e["data"], e["id"], e["retry"]) for e in expect["events"]]
        wanted = (events, expect["last_event_id"], expect["retry"], expect["comment_lines"])
        if read(base64.b64decode(case["bytes_b64"]), how, case["chunks"]) != wanted:
            wrong.append(case["name"])
    assert wrong == []


def large_pieces(data: bytes, how: str) -> Iterator[bytes]:
    """Huge data in pieces: single bytes at its two ends only, and random pieces that are larger."""
    match how:
        case "bytes":
            ends = min(20_000, len(data) // 2)
            yield from cuts(data[:ends], "bytes")
            yield data[ends:-ends]
            yield from cuts(data[-ends:], "bytes")
        case "random":
            sizes, at = random.Random(7), 0
            while at < len(data):
                size = sizes.choice((1, 100, 5_000, 70_000))
                yield data[at : at + size]
                at += size
        case "given":
            yield from (data[at : at + 65536] for at in range(0, len(data), 65536))
        case _:
            yield data


@pytest.mark.skipif(not CORPORA.exists(), reason="the shared corpora are not here")
@pytest.mark.parametrize("how", FEEDS)
def test_corpus_of_large_cases(how: str) -> None:
    """Huge lines, events and runs of comments are read right, in one piece and in many."""
    for case in corpus("sse-large.jsonl"):
        data = b"".join(base64.b64decode(part) * times for part, times in case["parts"])
        decoder = SSEDecoder(max_event_bytes=16 * 1024 * 1024)
        events = [e for piece in large_pieces(data, how) for e in decoder.feed(piece)]
        events += decoder.close()
        got = [(e.type, len(e.text), hashlib.sha256(e.text.encode()).hexdigest()) for e in events]
        wanted = [
            (e["event"], e["chars"], e["sha256"])
            for e in case["expect"]["events"]
            for _ in range(e.get("repeat", 1))
        ]
        assert got == wanted, case["name"]


@pytest.mark.skipif(not CORPORA.exists(), reason="the shared corpora are not here")
def test_corpus_says_when() -> None:
    """Events are handed over as early as the corpus demands: a CR is not waited out."""
    for case in corpus("sse-cases.jsonl"):
        when = case["expect"].get("emitted_after_chunk")
        if not when or not case["chunks"]:
            continue
        data, decoder, seen, at = base64.b64decode(case["bytes_b64"]), SSEDecoder(), 0, 0
        for size, least, most in zip(case["chunks"], when["min"], when["max"], strict=False):
            seen += len(decoder.feed(data[at : at + size]))
            at += size
            assert least <= seen <= most, case["name"]


LINE = st.sampled_from(
    [b"data: x", b"data", b"data:", b"id: 1", b"id", b"event: e", b": c", b"retry: 5", b"odd", b"",
     "data: ü🌍".encode(), b"error: no", b"data: [DONE]"]
)  # fmt: skip
END = st.sampled_from([b"\n", b"\r", b"\r\n"])


@given(st.lists(st.tuples(LINE, END)), st.data())
@settings(max_examples=300, deadline=None)
def test_cuts_make_no_difference(lines: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    """However a stream of all kinds of lines and line ends is cut, the events are the same."""
    stream = b"".join(line + end for line, end in lines)
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    whole, pieces = SSEDecoder(), SSEDecoder()
    expected = whole.feed(stream) + whole.close()
    got: list[SSEEvent] = []
    for start, stop in zip([0, *places], [*places, len(stream)], strict=True):
        got += pieces.feed(stream[start:stop])
    assert got + pieces.close() == expected
    for name in (
        "last_event_id",
        "retry",
        "comments",
        "unknown_fields",
        "truncated",
    ):
        assert getattr(pieces, name) == getattr(whole, name), name


BLOCKS = st.sampled_from(
    [
        b"data: a",
        b"event: x\ndata: a",
        b"event: x",
        b"event: x\ndata: a\ndata: b",
        b"event:x\ndata:a",
        b"event:  x\ndata:  a",
        b"data: a\nevent: x",
        b"event: x\ndata: event: y",
        b"id: 1\ndata: a",
        b": hi",
        b"",
    ]
)


@given(st.lists(st.tuples(BLOCKS, END, END), max_size=8), st.data())
@settings(max_examples=300, deadline=None)
def test_whole_blocks_are_read_as_their_lines_are(
    blocks: list[tuple[bytes, bytes, bytes]], data: st.DataObject
) -> None:
    """Pieces of whole blocks, for which there is a short way, give what their single bytes give."""
    whole = [block.replace(b"\n", within) + end + end for block, within, end in blocks]
    stream = b"".join(whole)
    ends = [sum(map(len, whole[:count])) for count in range(len(whole) + 1)]
    places = data.draw(st.lists(st.sampled_from(ends) | st.integers(0, len(stream))).map(sorted))
    decoder = SSEDecoder()
    events: list[SSEEvent] = []
    for a, b in zip([0, *places], [*places, len(stream)], strict=True):
        events += decoder.feed(stream[a:b])
    single = SSEDecoder()
    expected = [event for at in range(len(stream)) for event in single.feed(stream[at : at + 1])]
    assert events == expected
    assert (decoder.last_event_id, decoder.comments) == (single.last_event_id, single.comments)
    assert decoder.close() == single.close()
    assert decoder.truncated == single.truncated


@pytest.mark.parametrize("first", [b"data: a\r\n\r\n", b"data: a\n\n", b"event: x\ndata: a\n\n"])
@pytest.mark.parametrize("then", [b"data: b\n\n", b"data: b\r\n\r\n", b"event: x\ndata: b\n\n"])
def test_a_block_is_handed_over_at_its_end(first: bytes, then: bytes) -> None:
    """Also where its lines end otherwise than those before it."""
    assert [event.data for event in SSEDecoder().feed(first + then)] == [b"a", b"b"]


def test_a_name_ends_at_a_lone_cr() -> None:
    """Also where the lines behind it end in LF."""
    stream = b"event: x\rdata: a\r\revent: y\ndata: b\n\n"
    assert SSEDecoder().feed(stream) == [SSEEvent(b"a", b"x"), SSEEvent(b"b", b"y")]


def test_says_how_it_ended() -> None:
    """A last event without its blank line is handed over and told of; half of one is dropped and told of."""
    whole = SSEDecoder()
    whole.feed(b'data: {"a":1}\n')
    assert [event.data for event in whole.close()] == [b'{"a":1}']
    assert (whole.unterminated, whole.truncated) == (True, False)
    half = SSEDecoder()
    half.feed(b'data: {"a"')
    assert half.close() == []
    assert (half.unterminated, half.truncated) == (False, True)
    strict = SSEDecoder(strict=True)
    strict.feed(b'data: {"a":1}\n')
    assert strict.close() == []
    nothing = SSEDecoder()
    nothing.feed(b"data: a\n\n: half a comm")
    assert nothing.close() == []
    assert nothing.truncated is False


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_up_to_the_limit_pass(size: int) -> None:
    """The limit is per event, and the same however the bytes come."""
    data = b"data: " + b"x" * 193 + b"\n\n"
    decoder = SSEDecoder(max_event_bytes=200)
    stream = data * 5
    events = [e for at in range(0, len(stream), size) for e in decoder.feed(stream[at : at + size])]
    assert len(events) == 5


@pytest.mark.parametrize("start", [b": ", b"nonsense: ", b"error: "])
def test_what_is_no_event_needs_no_memory(start: bytes) -> None:
    """An endless comment or unknown field is neither an error nor kept."""
    decoder = SSEDecoder(max_event_bytes=64 * 1024)
    decoder.feed(start)
    piece = b"x" * 10_000
    tracemalloc.start()
    for _ in range(300):
        assert decoder.feed(piece) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 512 * 1024
    assert [event.data for event in decoder.feed(b"\ndata: a\n\n")] == [b"a"]


def test_memory_is_bounded_by_the_limit() -> None:
    """Endless data lines take no more than three times the limit before they are refused."""
    limit = 256 * 1024
    decoder = SSEDecoder(max_event_bytes=limit)

    def feed_for_ever() -> None:
        while True:
            decoder.feed(b"data: xy\n" * 100)

    tracemalloc.start()
    with pytest.raises(EventTooLarge):
        feed_for_ever()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * limit


def test_an_event_is_touched_a_constant_number_of_times() -> None:
    """Small pieces of one huge event are kept in one buffer that grows, not copied again and again."""
    decoder = SSEDecoder(max_event_bytes=8 * 1024 * 1024)
    decoder.feed(b"data: ")
    piece = b"x" * 100
    for _ in range(60_000):  # quadratic copying would move 180 GB here
        decoder.feed(piece)
    (event,) = decoder.feed(b"\n\n")
    assert len(event.data) == 6_000_000


def test_unknown_fields_are_told_of() -> None:
    """What is no field of the standard is counted, and the first one is shown."""
    decoder = SSEDecoder()
    assert decoder.feed(b'<html>\nnope\n{"error":1}\n\n') == []
    assert decoder.unknown_fields == 3
    assert decoder.unknown_sample == b"<html>"


def test_an_error_field_is_an_event() -> None:
    """A failure some servers report in a field of its own is handed over in order; strictly it is nothing."""
    stream = b'data: a\n\nerror: {"code":500}\n\ndata: b\n\n'
    events = [(event.type, event.data) for event in SSEDecoder().feed(stream)]
    assert events == [("message", b"a"), ("error", b'{"code":500}'), ("message", b"b")]
    assert [event.data for event in SSEDecoder(strict=True).feed(stream)] == [b"a", b"b"]
