"""The dialect of Anthropic's messages API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamguard_core import Chunk, ChunkKind, Count, CountSource, TruncatedStream, Usage
from streamguard_providers import (
    Anthropic,
    ProviderError,
    StreamDecoder,
    ToolFragment,
    anthropic_iterations,
    anthropic_total,
)

from .support import Decoded, event


def decoded(*events: bytes) -> Decoded:
    """Decode a stream."""
    return Decoded(StreamDecoder.anthropic(), events)


def said(kind: str, **fields: Any) -> bytes:
    """An event as Anthropic writes it, with its name and its padding."""
    payload = json.dumps({"type": kind, **fields}, ensure_ascii=False).encode()
    return b"event: " + kind.encode() + b"\ndata: " + payload + b"      \n\n"


def start(output: int = 1, **usage: Any) -> bytes:
    """A message begins; 12 tokens of input unless told otherwise."""
    figures = {"input_tokens": 12, **usage, "output_tokens": output}
    message = {"id": "msg_1", "model": "claude-test", "content": [], "usage": figures}
    return said("message_start", message=message)


def block(index: int = 0, kind: str = "text", **fields: Any) -> bytes:
    """A block begins."""
    return said("content_block_start", index=index, content_block={"type": kind, **fields})


def delta(kind: str, index: int = 0, **fields: Any) -> bytes:
    """A piece of a block."""
    return said("content_block_delta", index=index, delta={"type": kind, **fields})


def text(piece: str) -> bytes:
    """A piece of text."""
    return delta("text_delta", text=piece)


def arguments(piece: str, index: int = 0) -> bytes:
    """A piece of a tool call's arguments."""
    return delta("input_json_delta", index, partial_json=piece)


def stop_block(index: int = 0) -> bytes:
    """A block ends."""
    return said("content_block_stop", index=index)


def stop(reason: str | None = "end_turn", **usage: Any) -> bytes:
    """The message's reason and its final usage."""
    return said("message_delta", delta={"stop_reason": reason}, usage=usage)


END = said("message_stop")
PING = said("ping")
TOOL = {"id": "toolu_1", "name": "find"}

SMALL = b"".join(
    [
        start(input_tokens=10, cache_read_input_tokens=3, cache_creation_input_tokens=2),
        block(kind="thinking", thinking="", signature=""),
        PING,
        delta("thinking_delta", thinking="Hm."),
        delta("signature_delta", signature="c2ln"),
        stop_block(),
        block(1, text=""),
        delta("text_delta", 1, text="Grüße 🌍"),
        stop_block(1),
        block(2, "tool_use", id="toolu_1", name="find", input={}),
        arguments("", 2),
        arguments('{"q": "', 2),
        arguments('\u2028"}', 2),
        stop_block(2),
        stop("tool_use", output_tokens=41, output_tokens_details={"thinking_tokens": 5}),
        END,
    ]
)


def holds(bounds: Count, true: int) -> bool:
    """True when a count allows the true number."""
    return bounds.lower <= true and (bounds.upper is None or true <= bounds.upper)


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


# ---------------------------------------------------------------- usage


@pytest.mark.parametrize("placeholder", [1, 5, 88])
@pytest.mark.parametrize("rest", [[], [block(), text("much more than one token")], [PING]])
def test_the_first_output_count_is_no_count(placeholder: int, rest: list[bytes]) -> None:
    """Output is unknown until `message_delta`, whatever `message_start` says; input is told (P29)."""
    usage = decoded(start(placeholder), *rest).decoder.usage
    assert usage is not None
    assert usage.output == Count()
    assert usage.reasoning == Count()
    assert usage.input.value == 12
    assert usage.input.source is CountSource.PROVIDER_CUMULATIVE


def test_the_placeholder_may_be_too_high() -> None:
    """A refused message has 0 tokens of output in the end: the placeholder is not even a lower bound."""
    before = decoded(start(1), block(text="")).decoder.usage
    after = decoded(start(1), block(text=""), stop("refusal", output_tokens=0), END).decoder.usage
    assert before is not None
    assert after is not None
    assert after.output == Count.exact(0, CountSource.PROVIDER_FINAL)
    assert holds(before.output, 0)


@pytest.mark.parametrize("end", [stop(), stop(output_tokens=None), said("message_delta", delta={})])
def test_an_end_without_usage_leaves_the_output_unknown(end: bytes) -> None:
    """Where `message_delta` does not tell the output, the placeholder stays one."""
    usage = decoded(start(), block(), text("a"), end, END).decoder.usage
    assert usage is not None
    assert usage.output == Count()
    assert usage.input == Count.exact(12, CountSource.PROVIDER_FINAL)


def test_input_may_grow() -> None:
    """Server tools add input: until the end, what was told at the start is a lower bound."""
    before = [start(), block(), text("Let me look."), stop_block()]
    grown = stop(input_tokens=900, cache_read_input_tokens=None, output_tokens=7)
    early, late = decoded(*before).decoder.usage, decoded(*before, grown, END).decoder.usage
    assert early is not None
    assert late is not None
    assert early.input == Count(12, 12, None, CountSource.PROVIDER_CUMULATIVE)
    assert late.input == Count.exact(900, CountSource.PROVIDER_FINAL)
    assert late.reported == {"input_tokens": 900, "output_tokens": 7}


@pytest.mark.parametrize("rest", [[], [block(kind="compaction")], [block(), block(1, "fallback")]])
def test_input_may_fall(rest: list[bytes]) -> None:
    """Where the context is compacted, or may still be, the input is not even a lower bound."""
    before = [start(input_tokens=60385), *rest]
    usage = decoded(*before).decoder.usage
    final = decoded(*before, stop(input_tokens=612, output_tokens=2819), END).decoder.usage
    assert usage is not None
    assert final is not None
    assert usage.input.value == 60385
    assert final.input.value == 612
    assert holds(usage.input, 612)


def test_a_gateways_zeros_are_unknown_until_the_end() -> None:
    """No prompt is empty: zeros in `message_start` say nothing, those of the end are kept."""
    zeros = start(0, input_tokens=0, cache_read_input_tokens=0)
    early = decoded(zeros, block(), text("a")).decoder.usage
    assert early is not None
    assert (early.input, early.cached_input, early.output) == (Count(), Count(), Count())
    late = decoded(zeros, stop(input_tokens=30, output_tokens=2), END).decoder.usage
    assert late is not None
    assert (late.input.value, late.cached_input.value, late.output.value) == (30, 0, 2)


def test_usage_that_grows_is_assigned() -> None:
    """Several `message_delta` carry the same count, further on: the last one is the usage."""
    grow = [stop(None, output_tokens=5), stop(None, output_tokens=9)]
    early = decoded(start(), block(), *grow).decoder.usage
    assert early is not None
    assert early.output == Count(9, 9, None, CountSource.PROVIDER_CUMULATIVE)
    late = decoded(start(), block(), *grow, stop(output_tokens=11), END).decoder.usage
    assert late is not None
    assert late.output.value == 11


ITERATIONS = [
    {"type": "compaction", "input_tokens": 60385, "output_tokens": 522},
    {"type": "message", "input_tokens": 612, "output_tokens": 2819, "cache_read_input_tokens": 8},
    {"type": "advisor_message", "model": "other", "input_tokens": 100, "output_tokens": 10},
]


def test_iterations_are_told_apart_and_summed() -> None:
    """Usage is what the top says; the runs beside it, which are billed too, can be had apart and as a sum."""
    end = stop(
        input_tokens=612, cache_read_input_tokens=8, output_tokens=2819, iterations=ITERATIONS
    )
    dialect = decoded(start(), end, END).decoder.dialect
    assert isinstance(dialect, Anthropic)
    assert dialect.usage is not None
    assert dialect.total_usage is not None
    assert (dialect.usage.input.value, dialect.usage.output.value) == (620, 2819)
    assert dialect.total_usage.input == Count.exact(61105, CountSource.PROVIDER_FINAL)
    assert dialect.total_usage.output.value == 3351
    assert not dialect.total_usage.cached_input.known  # two of three runs do not tell it
    assert dialect.reported is not None
    assert dialect.reported["iterations"] == ITERATIONS
    runs = anthropic_iterations(dialect.reported)
    assert [(run.type, run.model, run.usage.input.value) for run in runs] == [
        ("compaction", None, 60385),
        ("message", None, 620),
        ("advisor_message", "other", 100),
    ]


def test_a_sum_is_not_made_of_what_is_not_known() -> None:
    """Without iterations the top is all; with one that cannot be read the sum is unknown."""
    plain = {"input_tokens": 3, "output_tokens": 4}
    assert anthropic_total(plain).input.value == 3
    odd = {**plain, "iterations": [ITERATIONS[0], "odd"]}
    assert not anthropic_total(odd).input.known
    assert len(anthropic_iterations(odd)) == 2
    early = decoded(start(iterations=ITERATIONS)).decoder.dialect
    assert isinstance(early, Anthropic)
    assert early.total_usage == early.usage
    assert Anthropic().total_usage is None


# ---------------------------------------------------------------- tool calls


def test_tool_calls_are_numbered_as_they_appear() -> None:
    """A call's number is its place among the calls, whatever its block's index is."""
    got = decoded(
        start(),
        block(0, text="I look."),
        stop_block(0),
        block(3, "tool_use", id="a", name="f", input={}),
        arguments("{}", 3),
        stop_block(3),
        block(7, "tool_use", id="b", name="g", input={}),
        arguments("[", 7),
        arguments("1]", 7),
        stop_block(7),
        stop("tool_use", output_tokens=9),
        END,
    )
    assert got.tools() == [("a", "f", "{}"), ("b", "g", "[1]")]
    pieces = [ToolFragment.of(c) for c in got.chunks if isinstance(c, Chunk)]
    assert [piece.index for piece in pieces] == [0, 0, 1, 1, 1]
    assert [piece.id for piece in pieces] == ["a", None, "b", None, None]
    assert got.text() == "I look."


@pytest.mark.parametrize("given", [{}, None, {"a": [1]}])
@pytest.mark.parametrize("rest", [[], [arguments("")]])
@pytest.mark.parametrize("stopped", [True, False])
def test_a_call_without_pieces(given: Any, rest: list[bytes], stopped: bool) -> None:
    """Without a piece, the arguments are those the block began with, `{}` where it had none."""
    ends = [stop_block()] if stopped else []
    got = decoded(start(), block(0, "tool_use", **TOOL, input=given), *rest, *ends, stop(), END)
    assert [(call[0], json.loads(call[2])) for call in got.tools()] == [("toolu_1", given or {})]


def test_pieces_replace_what_the_block_began_with() -> None:
    """Where arguments come in pieces, those are the arguments."""
    whole = [block(0, "tool_use", **TOOL, input={"a": 1}), arguments('{"a":'), arguments("2}")]
    assert decoded(start(), *whole, stop_block(), stop(), END).tools()[0][2] == '{"a":2}'


def test_a_call_without_pieces_is_certain_once_more_follows() -> None:
    """The next block shows that a call without arguments was whole."""
    calls = [block(0, "tool_use", **TOOL), stop_block(0), block(1, text="")]
    assert decoded(start(), *calls).tools() == [("toolu_1", "find", "{}")]
    assert decoded(start(), *calls[:2]).tools() == [("toolu_1", "find", "")]


@pytest.mark.parametrize("reason", ["max_tokens", "model_context_window_exceeded", "refusal"])
def test_a_call_that_was_cut_off_has_no_arguments(reason: str) -> None:
    """A call hit by the limit before its first piece must not look like a call without arguments."""
    call = [block(0, "tool_use", **TOOL, input={}), stop_block()]
    assert decoded(start(), *call, stop(reason), END).tools() == [("toolu_1", "find", "")]
    half = [block(0, "tool_use", **TOOL, input={}), arguments('{"q": "a'), stop_block()]
    assert decoded(start(), *half, stop(reason), END).tools() == [("toolu_1", "find", '{"q": "a')]


@pytest.mark.parametrize("kind", ["server_tool_use", "mcp_tool_use", "new_tool_use"])
def test_the_providers_own_tools_are_marked(kind: str) -> None:
    """Calls of tools that the provider runs are told of, and say that they are not ours to execute."""
    got = decoded(
        start(),
        block(0, kind, id="srv_1", name="web_search", input={}),
        arguments('{"query": "x"}'),
        stop_block(),
        block(1, "web_search_tool_result", tool_use_id="srv_1", content=[{"title": "t"}]),
        stop_block(1),
        block(2, text="Found."),
        stop("end_turn", output_tokens=3),
        END,
    )
    assert got.tools() == [("srv_1", "web_search", '{"query": "x"}')]
    assert isinstance(got.chunks[0], Chunk)
    assert ToolFragment.of(got.chunks[0]).kind == kind
    assert got.text() == "Found."


def test_our_tools_are_not_marked() -> None:
    """A call for the application has no kind."""
    chunk = decoded(start(), block(0, "tool_use", **TOOL)).chunks[0]
    assert isinstance(chunk, Chunk)
    assert ToolFragment.of(chunk) == ToolFragment(index=0, id="toolu_1", name="find")


def test_a_call_without_its_beginning() -> None:
    """Arguments of a block that never began are a call all the same."""
    got = decoded(start(), arguments('{"a"', 4), arguments(":1}", 4), stop(), END)
    assert got.tools() == [(None, None, '{"a":1}')]


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
        start(2, input_tokens=31),
        block(0, "tool_use", id="b", name="g"),
        arguments("[]"),
    )
    assert got.tools() == [("toolu_1", "find", "{}"), ("b", "g", "[]")]
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


# ---------------------------------------------------------------- errors


ERRORS = [
    ("nested", event({"type": "error", "error": {"type": "overloaded_error", "message": "m"}})),
    ("named", said("error", error={"type": "overloaded_error", "message": "m"})),
    ("without a type", event({"error": {"type": "overloaded_error", "message": "m"}})),
    ("only named", b'event: error\ndata: {"type":"overloaded_error","message":"m"}\n\n'),
    ("a field of its own", b'error: {"type":"overloaded_error","message":"m"}\n\n'),
    ("a document", b'{"type": "error",\n "error": {"type": "overloaded_error", "message": "m"}}'),
]


@pytest.mark.parametrize("said_", [case[1] for case in ERRORS], ids=[case[0] for case in ERRORS])
def test_errors_inside_a_200(said_: bytes) -> None:
    """An error in any shape is found, with what it means as a status; what came before it is kept."""
    document = said_.startswith(b"{")
    stream = said_ if document else start() + block() + text("a") + said_ + text("b") + END
    for pieces in ([stream], [stream[i : i + 1] for i in range(len(stream))]):
        got = decoded(*pieces)
        assert got.chunks == ([] if document else ["a"])
        failure = got.failure
        assert isinstance(failure, ProviderError)
        assert (failure.provider, failure.type, failure.message) == (
            "anthropic",
            "overloaded_error",
            "m",
        )
        assert (failure.status, failure.retryable) == (529, True)
        assert not got.decoder.dialect.complete


@pytest.mark.parametrize(
    "fields", [{"message": "m"}, {"error": "m"}, {"error": {"message": "m"}, "message": "x"}]
)
def test_errors_that_say_little(fields: dict[str, Any]) -> None:
    """A flat error, or one that is a text, is an error as well."""
    failure = decoded(start(), said("error", **fields)).failure
    assert isinstance(failure, ProviderError)
    assert failure.message == "m"


@pytest.mark.parametrize(
    ("kind", "status", "retryable"),
    [
        ("api_error", 500, True),
        ("rate_limit_error", 429, True),
        ("timeout_error", 504, True),
        ("request_too_large", 413, False),
        ("billing_error", 402, False),
        ("invalid_request_error", 400, False),
    ],
)
def test_what_an_error_means(kind: str, status: int, retryable: bool) -> None:
    """The HTTP status stays 200, so the error's type says what it would have been."""
    failure = decoded(said("error", error={"type": kind}, request_id="req_1")).failure
    assert isinstance(failure, ProviderError)
    assert (failure.status, failure.retryable, failure.request_id) == (status, retryable, "req_1")


def test_nothing_of_the_call_is_taken_after_an_error() -> None:
    """After an error no text and no tool call is read, and the first error counts."""
    dialect = Anthropic()
    dialect.fail({"type": "error", "error": {"type": "overloaded_error"}})
    rest = [block(0, "tool_use", **TOOL), stop_block(), text("a"), stop("tool_use"), END]
    for one in rest:
        assert dialect.decode(one.split(b"data: ")[1]) == []
    dialect.fail({"type": "error", "error": {"type": "api_error"}})
    assert dialect.error is not None
    assert dialect.error.type == "overloaded_error"
    assert not dialect.complete


# ---------------------------------------------------------------- oddities


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "content_block_delta", "index": "0", "delta": {"type": "text_delta", "text": "a"}},
        {"type": "content_block_delta", "index": 0.0, "delta": {"type": "text_delta", "text": "a"}},
        {"type": "content_block_delta", "delta": {"type": 5, "text": "a"}},
        {"type": "content_block_delta", "delta": {"text": "a"}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}, "usage": 5},
        {
            "type": "content_block_start",
            "index": [],
            "content_block": {"type": "text", "text": "a"},
        },
    ],
)
def test_one_odd_field_loses_no_token(odd: dict[str, Any]) -> None:
    """A field of an unexpected type costs itself, not the chunk."""
    got = decoded(event(odd))
    assert got.chunks == ["a"]
    assert got.decoder.malformed == 0


def test_odd_tool_calls() -> None:
    """Calls are taken as far as they can be read."""
    got = decoded(
        start(),
        block(0, "tool_use", id=5, name="f", input={"a": 1}),
        stop_block("x"),  # type: ignore[arg-type]
        said("message_delta", delta={"stop_reason": 7}, usage={"output_tokens": 2.0}),
        END,
    )
    assert got.tools() == [(None, "f", '{"a":1}')]
    assert got.decoder.finish == "7"
    assert got.decoder.usage is not None
    assert got.decoder.usage.output.value == 2


def test_odd_beginnings() -> None:
    """A start whose message or usage is odd is a start all the same."""
    for message in ({"model": [], "usage": {"input_tokens": 4}}, {"model": "m", "usage": 5}, 7):
        got = decoded(said("message_start", message=message), text("a"))
        assert got.chunks == ["a"]
        assert got.decoder.malformed == 0


def test_half_a_surrogate_pair_becomes_a_replacement() -> None:
    """Halves of characters never reach the reader as such."""
    half = (
        b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"a\\ud83d"}}\n\n'
    )
    assert decoded(half).chunks == ["a\ufffd"]
    call = block(0, "tool_use", **TOOL, input={"a": "x"}).replace(b'"x"', b'"a\\ud83d"')
    assert json.loads(decoded(start(), call, stop(), END).tools()[0][2]) == {"a": "a\ufffd"}


@pytest.mark.parametrize("bad", [b"{", b"null", b"[1]", b'"text"', b"5", b"nope", b"[" * 5000])
def test_what_cannot_be_read_is_skipped_and_counted(bad: bytes) -> None:
    """A payload that is no JSON object costs itself only."""
    got = decoded(start(), text("a"), b"data: " + bad + b"\n\n", text("b"), stop(), END)
    assert got.chunks == ["a", "b"]
    assert got.decoder.malformed == 1
    assert got.failure is None
