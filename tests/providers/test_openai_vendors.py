"""What compatible vendors make of chat completions is read as they meant it; each by a small stream."""

from __future__ import annotations

from typing import Any

import pytest

from streamguard_core import Chunk, ChunkKind, CountSource, TruncatedStream, Usage
from streamguard_providers import ProviderError, StreamDecoder, ToolFragment

from .decoding import Decoded, cuts
from .wire import DONE, event


def decoded(*events: bytes) -> Decoded:
    """Decode a stream, whole; and see that single bytes give the same."""
    data = b"".join(events)
    got = Decoded(StreamDecoder.openai_chat("vendor"), [data])
    single = Decoded(StreamDecoder.openai_chat("vendor"), cuts(data, "bytes"))
    # Who stops reading at an error does not see what follows it; all else is alike.
    if got.failure is None:
        assert single.summary() == got.summary()
    return got


def delta(finish: Any = None, *, index: int = 0, **fields: Any) -> bytes:
    """An event with one choice."""
    return event({"choices": [{"index": index, "delta": fields, "finish_reason": finish}]})


def counts(usage: Usage | None) -> tuple[int | None, ...]:
    """Input, output, cached input and reasoning."""
    assert usage is not None
    told = (usage.input, usage.output, usage.cached_input, usage.reasoning)
    return tuple(count.value for count in told)


def test_azure_says_first_what_its_filter_thinks_of_the_prompt() -> None:
    """Chunks of the filter, without a choice or without a delta, are no part of the answer."""
    hate = {"hate": {"filtered": False, "severity": "safe"}}
    filtered = {"index": 0, "finish_reason": None, "content_filter_results": hate}
    got = decoded(
        event({"choices": [], "model": "", "prompt_filter_results": [{"prompt_index": 0}]}),
        event({"choices": [filtered | {"delta": {"content": "a"}}], "model": "gpt"}),
        event({"choices": [filtered | {"content_filter_offsets": {"start_offset": 0}}]}),
        delta("stop"),
        event({"choices": [filtered | {"content_filter_offsets": {"start_offset": 9}}]}),
        DONE,
    )
    assert (got.chunks, got.failure) == (["a"], None)
    assert (got.decoder.finish, got.decoder.model) == ("stop", "gpt")
    assert got.decoder.whole


def test_azures_filter_ends_an_answer() -> None:
    """A filter's end is one of the provider's own, and says that it was the filter."""
    got = decoded(delta(content="a"), delta("content_filter"), DONE)
    assert (got.chunks, got.failure) == (["a"], None)
    assert got.decoder.dialect.blocked == "content_filter"
    assert got.decoder.dialect.finishes == {0: "content_filter"}


def test_databricks_counts_up_and_sends_thoughts_in_parts() -> None:
    """Usage in every chunk is the sum so far, in Anthropic's words; thoughts are parts of content."""
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}

    def chunk(content: Any, output: int, finish: str | None = None) -> bytes:
        usage = {"prompt_tokens": 9, "completion_tokens": output, "cache_read_input_tokens": 4}
        said = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
        return event({"choices": [said], "usage": usage})

    events = [chunk([thought], 1), chunk([{"type": "text", "text": "a"}], 2), chunk("", 3, "stop")]
    got = decoded(*events, DONE)
    assert got.text() == "a"
    assert got.text(ChunkKind.REASONING) == "hm"
    assert counts(got.decoder.usage) == (9, 3, 4, None)
    half = decoded(*events[:2]).decoder.usage
    assert half is not None
    assert half.output.source is CountSource.PROVIDER_CUMULATIVE


def test_perplexity_repeats_the_whole_message() -> None:
    """The message beside the delta, or in a last chunk without one, is the same text again."""
    citations = ["https://example.org"]

    def chunk(said: str, piece: str | None, finish: str | None = None) -> bytes:
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": said},
            "finish_reason": finish,
        }
        if piece is not None:
            choice["delta"] = {"role": "assistant", "content": piece}
        usage = {"prompt_tokens": 2, "completion_tokens": len(said)}
        return event({"choices": [choice], "usage": usage, "citations": citations})

    got = decoded(chunk("a", "a"), chunk("ab", "b"), chunk("ab", None, "stop"))
    assert (got.text(), got.decoder.finish, got.failure) == ("ab", "stop", None)
    assert counts(got.decoder.usage) == (2, 2, None, None)


def test_deepseek_thinks_first_and_counts_with_the_last_choice() -> None:
    """Thoughts have a field of their own, comments keep the connection, cached tokens their name."""
    usage = {
        "prompt_tokens": 8,
        "completion_tokens": 6,
        "prompt_cache_hit_tokens": 5,
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    last = {"index": 0, "delta": {"content": "", "reasoning_content": None}}
    got = decoded(
        b": keep-alive\n\n" * 3,
        delta(content=None, reasoning_content="hm"),
        delta(content="a", reasoning_content=None),
        event({"choices": [last | {"finish_reason": "stop"}], "usage": usage}),
        DONE,
    )
    assert (got.text(), got.text(ChunkKind.REASONING)) == ("a", "hm")
    assert counts(got.decoder.usage) == (8, 6, 5, 4)
    assert got.decoder.comments == 3


@pytest.mark.parametrize("output", [0, 2])
def test_xai_leaves_thoughts_out_of_its_count(output: int) -> None:
    """Completion tokens are without the reasoning, even where nothing but reasoning came."""
    usage = {
        "prompt_tokens": 12,
        "completion_tokens": output,
        "total_tokens": 352 + output,
        "completion_tokens_details": {"reasoning_tokens": 340},
        "cost_in_usd_ticks": 1,
    }
    got = decoded(delta("stop", content="a"), event({"choices": [], "usage": usage}), DONE)
    assert counts(got.decoder.usage) == (12, 340 + output, None, 340)


def test_groq_keeps_usage_and_errors_in_a_corner() -> None:
    """Usage and errors stand below `x_groq`, thoughts in `reasoning`."""
    got = decoded(
        delta(reasoning="hm"),
        event(
            {
                "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                "x_groq": {"id": "r", "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
            }
        ),
        DONE,
    )
    assert got.text(ChunkKind.REASONING) == "hm"
    assert counts(got.decoder.usage) == (1, 2, None, None)
    stopped = decoded(delta(content="a"), event({"x_groq": {"id": "r", "error": "over_capacity"}}))
    assert isinstance(stopped.failure, ProviderError)
    assert stopped.failure.message == "over_capacity"


def test_groqs_error_event_has_a_status() -> None:
    """An event named `error` ends the stream, with the status it names and without [DONE]."""
    said = b'{"error":{"message":"m","type":"invalid_request_error","status_code":400}}'
    got = decoded(delta(content="a"), b"event: error\ndata: " + said + b"\n\n")
    assert isinstance(got.failure, ProviderError)
    assert (got.chunks, got.failure.status, got.failure.retryable) == (["a"], 400, False)


def test_mistral_sends_lists_and_whole_calls() -> None:
    """Content may be a list of thoughts and text; calls come whole, and without an index."""
    calls = [
        {"id": "c1", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "c2", "function": {"name": "g", "arguments": "{}"}},
    ]
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    last = {"index": 0, "delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}
    got = decoded(
        delta(content=[thinking]),
        delta(content=[{"type": "text", "text": "a"}]),
        event({"choices": [last], "usage": usage}),
        DONE,
    )
    assert (got.text(), got.text(ChunkKind.REASONING)) == ("a", "hm")
    assert got.tools() == [("c1", "f", '{"a":1}'), ("c2", "g", "{}")]
    assert counts(got.decoder.usage) == (3, 4, None, None)


def test_calls_without_index_and_id_are_told_by_their_names() -> None:
    """Where nothing else tells two calls apart, a second name does."""
    calls = [{"function": {"name": name, "arguments": "{}"}} for name in ("f", "g")]
    assert decoded(delta(tool_calls=calls)).tools() == [(None, "f", "{}"), (None, "g", "{}")]


def test_calls_may_all_have_the_same_index() -> None:
    """A new id with a new name is a new call; an id repeated in every piece is not."""
    calls = [
        {"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{"}},
        {"index": 0, "id": "c1", "function": {"name": "f", "arguments": "}"}},
        {"index": 0, "id": "c2", "function": {"name": "g", "arguments": None}},
        {"index": 0, "id": "", "function": {"arguments": {"a": 1}}},
    ]
    got = decoded(*[delta(tool_calls=[call]) for call in calls])
    assert got.tools() == [("c1", "f", "{}"), ("c2", "g", '{"a":1}')]


def test_calls_are_numbered_in_their_order() -> None:
    """The wire's index may begin anywhere; a call's number is its place."""
    first = {"index": 3, "id": "c1", "function": {"name": "f", "arguments": ""}}
    second = {"index": 1, "id": "c2", "function": {"name": "g", "arguments": ""}}
    more = {"index": 3, "function": {"arguments": "{}"}}
    got = decoded(*[delta(tool_calls=[call]) for call in (first, second, more)])
    numbers = [ToolFragment.of(c).index for c in got.chunks if isinstance(c, Chunk)]
    assert numbers == [0, 1, 0]


def test_a_custom_tool_says_what_it_is() -> None:
    """A tool that takes any text has its input for arguments, and the provider's word for it."""
    call = {"id": "c", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    got = decoded(event({"choices": [{"message": message, "finish_reason": "tool_calls"}]}))
    assert got.tools() == [("c", "sql", "SELECT 1")]
    assert isinstance(got.chunks[0], Chunk)
    assert ToolFragment.of(got.chunks[0]).kind == "custom_tool_call"


def test_together_repeats_the_delta_as_text() -> None:
    """The text beside the delta is the same text: it is taken once."""
    choice = {"index": 0, "text": "a", "delta": {"content": "a", "token_id": 7}}
    got = decoded(event({"choices": [choice]}), delta("stop"), DONE)
    assert got.chunks == ["a"]


def test_openrouter_says_error_reason_and_usage_at_once() -> None:
    """Error, reason and usage in one chunk are all taken; thoughts in two fields are taken once."""
    details = [{"type": "reasoning.text", "text": "hm"}, {"type": "reasoning.encrypted"}]
    failing = {
        "choices": [
            {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "native": "x"}
        ],
        "error": {"code": 502, "message": "m"},
        "usage": {"prompt_tokens": 5, "completion_tokens": 1, "cost": 0.1},
    }
    got = decoded(
        b": OPENROUTER PROCESSING\n\n",
        delta(content="", reasoning="hm", reasoning_details=details),
        delta(content="a"),
        event(failing),
        DONE,
    )
    assert (got.text(), got.text(ChunkKind.REASONING)) == ("a", "hm")
    assert isinstance(got.failure, ProviderError)
    assert (got.failure.status, got.failure.retryable) == (502, True)
    assert counts(got.decoder.usage) == (5, 1, None, None)


@pytest.mark.parametrize(
    "choice",
    [
        {"delta": {}, "finish_reason": "error", "error": {"code": 502, "message": "m"}},
        {"delta": {}, "finish_reason": "error"},
    ],
    ids=["in the choice", "as a reason only"],
)
def test_a_choice_may_end_in_an_error(choice: dict[str, Any]) -> None:
    """An error inside a choice, or a reason that says so, is no completion."""
    got = decoded(delta(content="a"), event({"choices": [choice]}), DONE)
    assert got.chunks == ["a"]
    assert isinstance(got.failure, ProviderError)
    assert got.failure.status == (502 if "error" in choice else None)


def test_vllm_counts_continuously() -> None:
    """Usage in every chunk is a lower bound until every choice has its reason, and exact from then on."""

    def chunk(output: int, *choices: dict[str, Any]) -> bytes:
        usage = {"prompt_tokens": 4, "completion_tokens": output, "total_tokens": 4 + output}
        return event({"choices": choices, "usage": usage})

    events = [
        chunk(1, {"index": 0, "delta": {"content": "a"}, "finish_reason": None}),
        chunk(2, {"index": 1, "delta": {"content": "b"}, "finish_reason": None}),
        chunk(3, {"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}),
        chunk(4, {"index": 1, "delta": {"content": "c"}, "finish_reason": "length"}),
        chunk(4),
        DONE,
    ]
    for upto in range(1, 4):
        usage = decoded(*events[:upto]).decoder.usage
        assert usage is not None
        assert usage.output.lower == upto
        assert usage.output.upper is None
    whole = decoded(*events).decoder.usage
    assert whole is not None
    assert (whole.output.value, whole.output.source) == (4, CountSource.PROVIDER_FINAL)


def test_llama_cpp_fails_in_a_field_of_its_own() -> None:
    """An `error:` field instead of `data:`, without [DONE], is an error all the same."""
    got = decoded(
        delta(content="a"), b'error: {"code":500,"message":"m","type":"server_error"}\n\n'
    )
    assert got.chunks == ["a"]
    assert isinstance(got.failure, ProviderError)
    assert (got.failure.status, got.failure.message) == (500, "m")


def test_hugging_face_ends_without_a_marker() -> None:
    """The reasons of all choices and the end of the body are an end; without them they are none."""
    assert decoded(delta(content="a"), delta("stop")).failure is None
    assert isinstance(decoded(delta(content="a")).failure, TruncatedStream)


@pytest.mark.parametrize("nothing", ["", "null"])
def test_an_empty_reason_is_none(nothing: str) -> None:
    """Servers that write an empty reason, or the word, into every chunk have not finished by that."""
    cut = decoded(delta(nothing, content="a"))
    assert (cut.decoder.finish, cut.decoder.dialect.finishes) == (None, {})
    assert isinstance(cut.failure, TruncatedStream)
    assert decoded(delta(nothing, content="a"), delta("stop")).decoder.finish == "stop"


def test_moonshot_counts_inside_the_last_choice() -> None:
    """Usage that stands in a choice is taken where there is none above it."""
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "cached_tokens": 2}
    got = decoded(delta(content="a"), event({"choices": [last | {"usage": usage}]}), DONE)
    assert counts(got.decoder.usage) == (3, 4, 2, None)


def test_usage_that_never_comes_does_not_undo_the_marker() -> None:
    """Servers that write `usage: null` everywhere and report none have completed by their [DONE]."""
    said = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "usage": None}
    got = decoded(event(said), DONE)
    assert got.failure is None
    assert got.decoder.whole
    assert not decoded(event(said)).decoder.whole


def test_other_vendors_have_thoughts_in_details() -> None:
    """Where only the details have the thoughts, they are taken from there; tags stay in the text."""
    got = decoded(
        delta(content="", reasoning_details=[{"type": "reasoning.summary", "summary": "hm"}]),
        delta(content="<think>x</think>a"),
        delta("stop", content=""),
    )
    assert got.text(ChunkKind.REASONING) == "hm"
    assert got.text() == "<think>x</think>a"
