"""The dialect of Anthropic's messages API."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamguard_core import Chunk, ChunkKind, Count, CountSource, TruncatedStream, Usage
from streamguard_providers import Anthropic

from .anthropic_events import (
    END,
    PING,
    SMALL,
    TOOL,
    arguments,
    block,
    decoded,
    delta,
    holds,
    said,
    start,
    stop,
    stop_block,
    text,
)
from .wire import event


def test_a_message() -> None:
    """Thoughts, text and a tool call come as chunks of their kinds; then reason, model and end."""
    got = decoded(SMALL)
    assert got.chunks[:2] == [Chunk("Hm.", ChunkKind.REASONING), "Grüße 🌍"]
    assert got.tools() == [("toolu_1", "find", '{"q": "\u2028"}')]
    assert (got.decoder.finish, got.decoder.model) == ("tool_use", "claude-test")
    assert got.decoder.done
    assert got.failure is None


def test_usage_is_overlaid_and_kept() -> None:
    """The start's usage overlaid with the end's is the usage; input is with what the cache gave and took."""
    usage = decoded(SMALL).decoder.usage
    assert usage is not None
    assert (usage.input.value, usage.output.value, usage.reasoning.value) == (15, 41, 5)
    assert (usage.cached_input.value, usage.cache_write.value) == (3, 2)
    assert usage.output == Count.exact(41, CountSource.PROVIDER_FINAL)
    assert usage.reported == {
        "input_tokens": 10,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": 2,
        "output_tokens": 41,
        "output_tokens_details": {"thinking_tokens": 5},
    }


def test_every_single_cut_gives_the_same() -> None:
    """A stream cut in two at any byte is read as the whole one."""
    expected = decoded(SMALL).summary()
    for place in range(len(SMALL) + 1):
        assert decoded(SMALL[:place], SMALL[place:]).summary() == expected


@given(st.lists(st.integers(0, len(SMALL)), max_size=40).map(sorted))
@settings(max_examples=60, deadline=None)
def test_random_cuts_give_the_same(places: list[int]) -> None:
    """A stream cut anywhere, any number of times, is read as the whole one."""
    pieces = [SMALL[a:b] for a, b in zip([0, *places], [*places, len(SMALL)], strict=True)]
    assert decoded(*pieces).summary() == decoded(SMALL).summary()


def test_a_stream_cut_before_its_end_is_truncated() -> None:
    """Before `message_stop` no byte is an end, and what is known of usage holds the true one (P29)."""
    whole = decoded(SMALL).decoder.usage
    assert whole is not None
    assert whole.input.value is not None
    assert whole.output.value is not None
    for place in range(SMALL.index(b'"message_stop"}')):
        got = decoded(SMALL[:place])
        assert isinstance(got.failure, TruncatedStream), place
        assert not got.decoder.dialect.complete
        usage = got.decoder.usage or Usage()
        assert holds(usage.input, whole.input.value)
        assert holds(usage.cached_input, 3)
        assert holds(usage.output, whole.output.value)


# ---------------------------------------------------------------- content


def test_a_block_may_begin_with_content() -> None:
    """What already stands in the block's beginning is its first piece."""
    got = decoded(
        start(), block(text="Hello"), text(" there"), block(1, "thinking", thinking="Hm"), PING
    )
    assert got.chunks == ["Hello", " there", Chunk("Hm", ChunkKind.REASONING)]


@pytest.mark.parametrize(
    "unknown",
    [
        PING,
        said("content_block_magic", index=0, delta={"type": "text_delta", "text": "no"}),
        said("vendor_note", message="a text where others have an object"),
        block(1, "hologram", text="no"),
        block(1, "redacted_thinking", data="b3BhcXVl"),
        delta("citations_delta", citation={"cited_text": "no"}),
        delta("signature_delta", signature="c2ln"),
        delta("compaction_delta", content="a summary"),
        delta("hologram_delta", text="no", thinking="no", partial_json="no"),
        delta("hologram_delta", thinking="no"),
        delta("hologram_delta", partial_json="no"),
        event({"no": "type"}),
        said("content_block_start", index=0),
        said("content_block_delta", index=0),
        stop_block(9),
    ],
)
def test_what_is_not_known_passes(unknown: bytes) -> None:
    """Events, blocks and deltas of types that are not known are no content and no fault."""
    got = decoded(start(), block(), text("a"), unknown, text("b"), stop(output_tokens=2), END)
    assert got.chunks == ["a", "b"]
    assert got.decoder.malformed == 0
    assert got.failure is None


def test_the_name_of_the_event_says_nothing() -> None:
    """Without event lines, or with wrong ones, the message is read all the same."""
    lines = SMALL.split(b"\n")
    bare = b"\n".join(line for line in lines if not line.startswith(b"event:"))
    wrong = SMALL.replace(b"event: content_block_delta", b"event: ping")
    assert decoded(bare).summary() == decoded(wrong).summary() == decoded(SMALL).summary()


def test_a_gateways_marker_after_the_end() -> None:
    """`[DONE]` after `message_stop` is nothing, and is no end in its place."""
    late = decoded(SMALL, b"event: data\ndata: [DONE]\n\n")
    assert (late.failure, late.decoder.malformed) == (None, 0)
    instead = decoded(start(), block(), text("a"), stop(), b"data: [DONE]\n\n")
    assert isinstance(instead.failure, TruncatedStream)
    assert instead.decoder.malformed == 0


def test_a_second_start() -> None:
    """A second `message_start` goes on where the first was; its placeholder is one as well."""
    got = decoded(
        start(0, input_tokens=0),
        start(1, input_tokens=30),
        block(0, "tool_use", **TOOL),
        arguments("{}"),
        start(2, input_tokens=31).replace(b"claude-test", b"claude-other"),
        block(0, "tool_use", id="b", name="g"),
        arguments("[]"),
    )
    assert got.tools() == [("toolu_1", "find", "{}"), ("b", "g", "[]")]
    assert got.decoder.model == "claude-test"
    usage = got.decoder.usage
    assert usage is not None
    assert (usage.input.value, usage.output) == (31, Count())
    again = decoded(start(), stop(output_tokens=5), start(), block(), text("more"))
    assert isinstance(again.failure, TruncatedStream)
    assert again.decoder.finish is None
    assert again.decoder.usage is not None
    assert not again.decoder.usage.output.known


def test_a_stop_sequence_and_a_refusal_are_told() -> None:
    """Which sequence ended the message, and why it was refused, can be read; text before it is kept."""
    reason = {"stop_reason": "stop_sequence", "stop_sequence": "\n\n"}
    sequence = decoded(start(), said("message_delta", delta=reason), END).decoder.dialect
    assert isinstance(sequence, Anthropic)
    assert (sequence.finish, sequence.stop_sequence) == ("stop_sequence", "\n\n")
    details = {"type": "refusal", "category": "cyber"}
    end = said("message_delta", delta={"stop_reason": "refusal", "stop_details": details})
    got = decoded(start(), block(), text("Well"), end, END)
    refused = got.decoder.dialect
    assert isinstance(refused, Anthropic)
    assert (got.chunks, refused.finish, refused.stop_details) == (["Well"], "refusal", details)
    assert got.failure is None


def test_a_whole_message_in_place_of_a_stream() -> None:
    """A server that does not stream answers with one document, which is read as such."""
    content = [
        {"type": "thinking", "thinking": "Hm."},
        {"type": "text", "text": "all of it"},
        {"type": "tool_use", **TOOL, "input": {"q": "x"}},
        {"type": "tool_use", "id": "b", "name": "now", "input": {}},
    ]
    message = {
        "type": "message",
        "model": "m",
        "content": content,
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 3, "output_tokens": 9},
    }
    got = decoded(json.dumps(message, indent=1).encode())
    assert got.chunks[:2] == [Chunk("Hm.", ChunkKind.REASONING), "all of it"]
    assert got.tools() == [("toolu_1", "find", '{"q":"x"}'), ("b", "now", "{}")]
    assert (got.decoder.finish, got.decoder.model, got.failure) == ("tool_use", "m", None)
    assert got.decoder.usage is not None
    assert got.decoder.usage.output == Count.exact(9, CountSource.PROVIDER_FINAL)
