"""Framing and dialect together: no cut makes a difference, and no cut passes for an end."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import zlib
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamguard_core import AnyChunk, ChunkKind, CountSource, ProducerError, TruncatedStream
from streamguard_providers import Anthropic, EventTooLarge, ProviderError, StreamDecoder

from .decoding import CORPORA, FIXTURES, Decoded, cuts, decoder_for

NAMES = sorted(path.name for path in FIXTURES.iterdir())
MARKERS = {
    "ndjson": b'"done":true',
    "gemini.sse": b'"finishReason"',
    "gemini.json": b'"finishReason"',
    "anthropic.sse": b'"stop_reason"',
}
"""Before which a stream says nothing of its end; of others, before their last usage."""


@cache
def fixture(name: str) -> bytes:
    """The bytes of one of our own recorded streams."""
    return (FIXTURES / name).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_every_single_cut_gives_the_same(name: str) -> None:
    """A stream cut in two at any byte is read as the whole one."""
    data = fixture(name)
    expected = Decoded(decoder_for(name), [data]).summary()
    for place in range(len(data) + 1):
        assert Decoded(decoder_for(name), [data[:place], data[place:]]).summary() == expected


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_random_cuts_give_the_same(name: str, data: st.DataObject) -> None:
    """A stream cut anywhere, any number of times, is read as the whole one."""
    stream = fixture(name)
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=40).map(sorted))
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    whole = Decoded(decoder_for(name), [stream])
    assert Decoded(decoder_for(name), pieces).summary() == whole.summary()


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_cut_before_its_marker_never_ends_cleanly(name: str) -> None:
    """Whatever byte the stream breaks off at before its usage and terminal marker, it is truncated.

    And what is known of usage by then holds the true one.
    """
    data = fixture(name)
    marker = MARKERS.get(name) or MARKERS.get(name.partition(".")[2])
    end = data.rindex(b'"usage":{') if marker is None else data.index(marker)
    whole = Decoded(decoder_for(name), [data]).decoder.usage
    assert whole is not None
    true = whole.output.value
    assert true is not None
    for place in range(end):
        got = Decoded(decoder_for(name), [data[:place]])
        assert isinstance(got.failure, TruncatedStream), place
        usage = got.decoder.usage
        if usage is not None:
            assert usage.output.lower <= true
            assert usage.output.upper is None or true <= usage.output.upper


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_stream_quotes_nothing(name: str) -> None:
    """The error says who, how far and whether there was a reason, and none of the text."""
    data = fixture(name)
    got = Decoded(decoder_for(name), [data[: len(data) // 2]])
    said = str(got.failure)
    assert "without its terminal marker" in said
    assert not any(word in said for word in ("Grüße", "river", "find", "Look"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("told", [True, False])
def test_what_nobody_named_is_found_out(name: str, told: bool) -> None:
    """Framing and dialect are found in the bytes, with and without a content type, however cut."""
    types = {"ndjson": "application/x-ndjson", "json": "application/json; charset=UTF-8"}
    kind = types.get(name.rpartition(".")[2], "text/event-stream") if told else None
    named = decoder_for(name)
    expected = Decoded(named, [fixture(name)]).summary()
    for how in ("whole", "bytes", "random"):
        found = Decoded(StreamDecoder.auto("somebody", kind), cuts(fixture(name), how))
        assert type(found.decoder.dialect) is type(named.dialect)
        assert found.summary() == expected
        assert found.failure is None


def test_bodies_that_are_no_stream_fail_with_a_reason() -> None:
    """Compressed bytes nobody announced, and HTML, are named as what they are."""
    for body, word in ((gzip.compress(b"data: a\n\n"), "gzip"), (b"\n<html></html>", "HTML")):
        with pytest.raises(ProviderError, match=word):
            StreamDecoder.openai_chat().feed(body)
    with pytest.raises(ProviderError, match="HTML"):
        StreamDecoder.ollama().feed(b"<!doctype html>")


def feed_on(decoder: StreamDecoder) -> None:
    """Feed megabytes of nothing that ends."""
    for _ in range(100):
        decoder.feed(b"x" * 65536)


def test_a_document_is_bounded() -> None:
    """A document in place of a stream is not collected without end."""
    decoder = StreamDecoder.openai_chat()
    decoder.feed(b'{"a": "')
    with pytest.raises(ProviderError, match="huge document"):
        feed_on(decoder)


def test_an_event_that_is_too_large_is_an_error_of_the_producer() -> None:
    """The framing's limit shows as an error that a receipt can name."""
    decoder = StreamDecoder.ollama()
    with pytest.raises(EventTooLarge) as caught:
        feed_on(decoder)
    assert isinstance(caught.value, ProducerError)


# ---------------------------------------------------------------- shared recordings


def recordings() -> list[dict[str, Any]]:
    """The recorded streams, and the derived ones; none where they are absent."""
    found = []
    for name in ("streams.jsonl", "derived.jsonl"):
        path = CORPORA / name
        if path.exists():
            found += [json.loads(line) for line in path.read_text("ascii").splitlines()]
    return found


def body(record: dict[str, Any]) -> bytes:
    """The bytes of a recording, decompressed."""
    raw: bytes = (CORPORA / record["file"]).read_bytes()
    match record.get("content_encoding"):
        case "gzip":
            return gzip.decompress(raw)
        case "deflate":
            return zlib.decompress(raw)
    return raw


def differences(got: Decoded, expect: dict[str, Any]) -> dict[str, Any]:
    """What was read otherwise than expected."""
    decoder, usage, wanted = got.decoder, got.decoder.usage, expect["usage_norm"]
    finish, blocked = expect["finish_reason"], expect.get("block_reason")
    pairs: dict[str, tuple[object, object]] = {
        "text": (got.text(), expect["text"]),
        "reasoning": (got.text(ChunkKind.REASONING), expect["reasoning"]),
        # Gemini has numbers where it was asked for them; a reason is a text here.
        "finish": (decoder.finish, None if finish is None else str(finish)),
        "blocked": (decoder.dialect.blocked, blocked),
        "tools": (
            [(i, n, json.loads(a) if a else None) for i, n, a in got.tools(own=True)],
            [(t["id"], t["name"], t["arguments"]) for t in expect["tool_calls"]],
        ),
        "reported": (decoder.reported, expect["usage_reported"]),
        "usage": (usage is not None, wanted is not None),
        "error": (decoder.error is not None, expect["error"] is not None),
        # A blocked prompt is an end here; the corpora call an answer complete, and there is none.
        "complete": (decoder.dialect.complete, expect["complete"] or blocked is not None),
        "malformed": (decoder.malformed, expect.get("malformed") or 0),
    }
    if usage is not None and wanted is not None:
        names = ("input", "output", "reasoning", "cached_input", "cache_write")
        counts = [getattr(usage, name) for name in names]
        wanted = wanted | {"cached_input": wanted["cache_read"]}
        if isinstance(decoder.dialect, Anthropic) and finish is None:
            wanted = wanted | {"output": None}  # the corpora have the placeholder there (P29)
        pairs["counts"] = ([c.value for c in counts], [wanted[name] for name in names])
        known = [count for count in counts if count.known]
        final = all(count.source is CountSource.PROVIDER_FINAL for count in known)
        pairs["final"] = (final, finish is not None or decoder.dialect.done or not known)
    ends_well = expect["error"] is None and (pairs["complete"][1] or decoder.done)
    pairs["end"] = (got.failure is None, ends_well)
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def responses(record: dict[str, Any]) -> list[bytes]:
    """The bodies of a recording: its author may have joined those of several requests."""
    data = body(record)
    starts = [
        found.start() for found in re.finditer(rb"^event: response.created$", data, re.MULTILINE)
    ]
    return [data[a:b] for a, b in itertools.pairwise([0, *starts[1:], len(data)])]


def read(record: dict[str, Any], how: str, *, auto: bool) -> Decoded:
    """Everything a recording says, by the decoder for its dialect or by the one that finds it out."""
    got: Decoded | None = None
    before: list[AnyChunk] = []
    for data in responses(record):
        before += [] if got is None else got.chunks
        name, kind = record["provider"], record["content_type"] if how == "whole" else None
        decoder = StreamDecoder.auto("x", kind) if auto else StreamDecoder.named(name)
        got = Decoded(decoder, cuts(data, how))
        assert decoder.dialect_name == name, record["id"]
    assert got is not None
    got.chunks[:0] = before
    return got


@pytest.mark.skipif(not recordings(), reason="the shared corpora are not here")
@pytest.mark.parametrize("auto", [False, True], ids=["named", "auto"])
@pytest.mark.parametrize("how", ["whole", "bytes", "random"])
def test_recorded_streams(how: str, auto: bool) -> None:
    """Every recorded stream gives its text, thoughts, tools, usage, error and end, in three feeds."""
    wrong = {}
    for record in recordings():
        if how == "bytes" and record["bytes"] > 20_000:
            continue  # the small ones take every way through the decoder, too
        found = differences(read(record, how, auto=auto), record["expect"])
        if found:
            wrong[record["id"]] = found
    assert wrong == {}


def test_the_limit_of_malformed_payloads_does_not_depend_on_the_cuts() -> None:
    """What comes after one payload too many that cannot be read is not taken, in one piece or in many."""
    lines = [
        b'{"message":{"content":"a"}}\n',
        *[b"{broken\n"] * 17,
        b'{"message":{"content":"b"}}\n',
    ]
    whole, single = StreamDecoder.ollama(), StreamDecoder.ollama()
    said = whole.feed(b"".join(lines))
    assert said == [chunk for line in lines for chunk in single.feed(line)] == ["a"]
    for decoder in (whole, single):
        assert decoder.error is not None
        assert decoder.error.type == "malformed_stream"
