"""Server-sent events: what was put in comes out of a parser that follows the standard."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamguard_core import AnyChunk, Chunk, ChunkKind, UsageError
from streamguard_core.sse import encode_batch, encode_chunk, encode_event


def parse(wire: bytes) -> list[dict[str, str]]:
    """Read an event stream as the HTML standard (9.2.6) says; an own parser, so that it can disagree."""
    events: list[dict[str, str]] = []
    fields: dict[str, list[str]] = {}
    for line in re.split("\r\n|\r|\n", wire.decode()):
        if not line:
            if "data" in fields:
                events.append({name: "\n".join(values) for name, values in fields.items()})
            fields = {}
            continue
        name, _, value = line.partition(":")
        if name:
            fields.setdefault(name, []).append(value.removeprefix(" "))
    return events


@given(st.lists(st.text(min_size=1), min_size=1, max_size=20))
def test_text_comes_out_as_it_went_in(texts: list[str]) -> None:
    """Any text survives, one event per chunk; only the three line ends become one."""
    wire = encode_batch(texts)
    clean = [text.encode("utf-8", "replace").decode() for text in texts]
    expected = [re.sub("\r\n|\r", "\n", text) for text in clean]
    assert [event["data"] for event in parse(wire)] == expected


@pytest.mark.parametrize(
    "separator", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
)
def test_other_separators_are_no_line_ends(separator: str) -> None:
    """What Python calls a line end and the standard does not stays inside its line."""
    assert encode_batch([f"a{separator}b"]) == f"data: a{separator}b\n\n".encode()


@pytest.mark.parametrize(
    "text", ["one\ndata: forged", "a\r\nevent: eos", "a\rid: 9", "\n\nevent: eos\ndata: {}\n\n"]
)
def test_no_text_forges_a_field(text: str) -> None:
    """A model that writes SSE writes text."""
    (event,) = parse(encode_batch([text]))
    assert set(event) == {"data"}


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b"])
def test_names_and_ids_hold_one_line(bad: str) -> None:
    """Name and id with a CR, LF or NUL are refused, with what to do."""
    with pytest.raises(UsageError, match="event has a CR, LF or NUL; put such text into its data"):
        encode_event("x", event=bad)
    with pytest.raises(UsageError, match="id has a CR"):
        encode_event("x", id=bad)


def test_event_with_everything() -> None:
    """Name and id stand before the data."""
    assert encode_event("a\nb", event="note", id="7") == b"event: note\nid: 7\ndata: a\ndata: b\n\n"


@pytest.mark.parametrize(
    ("chunk", "event", "data"),
    [
        (Chunk("hello"), None, "hello"),
        (Chunk("because", kind=ChunkKind.REASONING), "reasoning", "because"),
        (Chunk(kind=ChunkKind.TOOL, data=b'{"a":1}'), "tool", '{"a":1}'),
        (Chunk("other", choice=1), "text.1", "other"),
    ],
)
def test_what_is_not_the_answer_has_a_name(chunk: Chunk, event: str | None, data: str) -> None:
    """Plain clients see the text of the first choice; everything else is an event with a name."""
    (parsed,) = parse(encode_batch(["before", chunk]))[1:]
    assert parsed == ({"data": data} if event is None else {"event": event, "data": data})


@pytest.mark.parametrize("empty", ["", Chunk(), b""])
def test_empty_chunks_have_no_event(empty: AnyChunk) -> None:
    """A chunk without content says nothing to a reader."""
    assert encode_batch([empty]) == b""
    assert encode_chunk(empty) == b""


def test_raw_bytes_are_framed_already() -> None:
    """Bytes among text are passed on as they are, in order."""
    assert encode_batch(["a", b": c\n\n", "b"]) == b"data: a\n\n: c\n\ndata: b\n\n"


def test_half_a_surrogate_pair_is_no_utf8() -> None:
    """A provider that splits a pair does not break the stream."""
    assert encode_batch(["a\ud83d"]) == b"data: a?\n\n"
