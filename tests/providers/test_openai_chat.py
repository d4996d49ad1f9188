"""The dialect of OpenAI chat completions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamguard_core import Chunk, ChunkKind, CountSource, TruncatedStream
from streamguard_providers import OpenAIChat, ProviderError, StreamDecoder, ToolFragment

from .decoding import FIXTURES, Decoded
from .wire import DONE, event, token


def decoded(*events: bytes) -> Decoded:
    """Decode a stream."""
    return Decoded(StreamDecoder.openai_chat(), events)


def delta(index: int = 0, finish: Any = None, **fields: Any) -> bytes:
    """An event with one choice."""
    return event({"choices": [{"index": index, "delta": fields, "finish_reason": finish}]})


def test_text_is_plain() -> None:
    """Text of the only choice comes as plain strings, and empty deltas as nothing."""
    got = decoded((FIXTURES / "chat.sse").read_bytes())
    assert got.chunks == ["Grüße", " from 🌍\u2028 the", " river"]
    assert (got.decoder.finish, got.decoder.model) == ("stop", "gpt-test-2026")
    assert got.decoder.done
    assert got.failure is None


def test_usage_is_normalised_and_kept() -> None:
    """Usage has its classes, final and exact, and the provider's own object beside them."""
    usage = decoded((FIXTURES / "chat.sse").read_bytes()).decoder.usage
    assert usage is not None
    assert (usage.input.value, usage.output.value, usage.reasoning.value) == (12, 7, 2)
    assert usage.cached_input.value == 4
    assert not usage.cache_write.known
    assert usage.output.source is CountSource.PROVIDER_FINAL
    assert usage.reported is not None
    assert usage.reported["total_tokens"] == 19


def test_tool_calls_and_thoughts_have_their_kinds() -> None:
    """Reasoning and pieces of tool calls are chunks of their kinds; the pieces say where they belong."""
    got = decoded((FIXTURES / "tools.sse").read_bytes())
    assert got.text(ChunkKind.REASONING) == "Look it up."
    assert got.tools() == [("call_a", "find", '{"q":"x"}'), ("call_b", "now", "{}")]
    assert got.text() == ""
    assert got.decoder.finish == "tool_calls"
    last = got.chunks[-1]
    assert isinstance(last, Chunk)
    assert ToolFragment.of(last) == ToolFragment(index=1, id="call_b", name="now")


def test_choices_are_kept_apart() -> None:
    """With several choices each chunk says which, and the first choice's reason is the stream's."""
    got = decoded((FIXTURES / "choices.sse").read_bytes())
    assert got.chunks == [
        Chunk("a", choice=1),
        "b",
        Chunk("No.", ChunkKind.REFUSAL, choice=1),
        "c",
    ]
    assert got.decoder.finish == "length"


def test_an_unfinished_choice_is_no_end() -> None:
    """Without a terminal marker the stream is whole only when every choice has its finish reason."""
    one = decoded(delta(content="a"), delta(1, content="b"), delta(finish="stop"))
    both = decoded(
        delta(content="a"), delta(1, content="b"), delta(finish="stop"), delta(1, "stop")
    )
    assert isinstance(one.failure, TruncatedStream)
    assert both.failure is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"reasoning_content": "t", "content": "c"}, [("reasoning", "t"), ("text", "c")]),
        ({"reasoning": "t"}, [("reasoning", "t")]),
        ({"reasoning": "t", "reasoning_details": [{"text": "t"}]}, [("reasoning", "t")]),
        ({"reasoning_details": [{"summary": "t"}], "content": ""}, [("reasoning", "t")]),
        ({"content": [{"type": "text", "text": "c"}]}, [("text", "c")]),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}]},
            [("reasoning", "t")],
        ),
        ({"content": [{"type": "thinking", "thinking": "t"}, "odd"]}, [("reasoning", "t")]),
        ({"refusal": "no"}, [("refusal", "no")]),
        ({"function_call": {"name": "f", "arguments": "{"}}, [("tool", "{")]),
        ({"tool_calls": [{"function": {"arguments": None}}]}, [("tool", "")]),
        ({"tool_calls": [{"function": {"arguments": {"a": 1}}}]}, [("tool", '{"a":1}')]),
        ({"tool_calls": [{"index": 0}]}, [("tool", "")]),
        ({"content": None}, []),
    ],
)
def test_vendors_deviations(fields: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """What compatible servers make of a delta is read as what they meant."""
    chunks = decoded(delta(**fields)).chunks
    kinds = [(str(c.kind), c.text) if isinstance(c, Chunk) else ("text", c) for c in chunks]
    assert kinds == expected


def test_a_missing_index_is_made_up_by_the_id() -> None:
    """Where tool calls have no index, a new id begins a new call."""

    def call(name: str | None, arguments: str, **rest: Any) -> bytes:
        return delta(tool_calls=[{"function": {"name": name, "arguments": arguments}, **rest}])

    got = decoded(
        call("f", "{", id="a"), call(None, "}"), call("g", "[", id="b"), call(None, "]", id="b")
    )
    assert got.tools() == [("a", "f", "{}"), ("b", "g", "[]")]


USAGES = [
    # xAI leaves the reasoning out of completion_tokens
    (
        {
            "prompt_tokens": 12,
            "completion_tokens": 2,
            "total_tokens": 354,
            "completion_tokens_details": {"reasoning_tokens": 340},
        },
        (12, 342, None, None, 340),
    ),
    ({"prompt_tokens": 5, "prompt_cache_hit_tokens": 3}, (5, None, 3, None, None)),
    (
        {"prompt_tokens": 5, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 1},
        (5, None, 3, 1, None),
    ),
    (
        {"prompt_tokens": 5.0, "completion_tokens": 2.5, "cached_tokens": 0},
        (5, None, 0, None, None),
    ),
    ({"prompt_tokens": None, "completion_tokens": 0}, (None, 0, None, None, None)),
    ({"prompt_tokens": -1, "completion_tokens": True}, (None, None, None, None, None)),
]


@pytest.mark.parametrize(("reported", "expected"), USAGES)
def test_usage_of_vendors(reported: dict[str, Any], expected: tuple[int | None, ...]) -> None:
    """Vendors' figures get into the right classes; an explicit zero is one, nonsense is unknown."""
    usage = decoded(event({"choices": [], "usage": reported}), DONE).decoder.usage
    assert usage is not None
    counts = (usage.input, usage.output, usage.cached_input, usage.cache_write, usage.reasoning)
    assert tuple(count.value for count in counts) == expected
    assert usage.reported == reported


def test_cumulative_usage_is_a_lower_bound_until_the_end() -> None:
    """Usage in every chunk is assigned, not added; before a finish reason it may still grow."""
    early = event({"choices": [{"delta": {"content": "a"}}], "usage": {"completion_tokens": 1}})
    late = event(
        {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}
    )
    cut = decoded(early).decoder.usage
    assert cut is not None
    assert cut.output.source is CountSource.PROVIDER_CUMULATIVE
    assert (cut.output.value, cut.output.upper) == (1, None)
    whole = decoded(early, late).decoder.usage
    assert whole is not None
    assert (whole.output.value, whole.output.source) == (2, CountSource.PROVIDER_FINAL)


def test_usage_of_groq() -> None:
    """Usage may stand in a corner of its own."""
    chunk = {"choices": [], "x_groq": {"id": "r", "usage": {"completion_tokens": 3}}}
    usage = decoded(event(chunk), DONE).decoder.usage
    assert usage is not None
    assert usage.output.value == 3


def test_announced_usage_must_come() -> None:
    """Where chunks say `usage: null`, an end without the usage is no end; where they do not, it is one."""
    promise = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "usage": None}
    assert isinstance(decoded(event(promise)).failure, TruncatedStream)
    assert decoded(token("a", "stop")).failure is None


def test_whole_answer_in_place_of_a_stream() -> None:
    """A server that ignores `stream` answers with one document, which is read as such."""
    answer = {
        "object": "chat.completion",
        "model": "m",
        "choices": [{"message": {"content": "all of it"}, "finish_reason": "stop"}],
        "usage": {"completion_tokens": 3},
    }
    got = decoded(json.dumps(answer, indent=1).encode())
    assert got.chunks == ["all of it"]
    assert (got.decoder.finish, got.failure) == ("stop", None)


ERRORS = [
    ("nested", event({"error": {"message": "m", "type": "server_error", "code": None}})),
    ("text", event({"error": "m"})),
    ("event name", b'event: error\ndata: {"error":{"message":"m","type":"server_error"}}\n\n'),
    ("event name, flat", b'event: error\ndata: {"message":"m","type":"server_error"}\n\n'),
    ("event name, no JSON", b"event: error\ndata: m\n\n"),
    ("flat", event({"object": "error", "message": "m", "type": "server_error", "code": 500})),
    ("flat with a type", event({"type": "error", "message": "m", "code": "server_error"})),
    ("a field of its own", b'error: {"code":500,"message":"m","type":"server_error"}\n\n'),
    ("a document", b'{\n "error": {"message": "m", "type": "server_error"}\n}'),
    ("beside choices", event({"choices": [{"delta": {}}], "error": {"message": "m", "code": 500}})),
]


@pytest.mark.parametrize("said", [case[1] for case in ERRORS], ids=[case[0] for case in ERRORS])
def test_errors_inside_a_200(said: bytes) -> None:
    """An error in any of its shapes is found; what came before it is kept, text after it is not."""
    document = said.startswith(b"{")
    stream = said if document else token("before") + said + token("after")
    got = Decoded(StreamDecoder.openai_chat(), [stream])
    assert got.chunks == ([] if document else ["before"])
    assert isinstance(got.failure, ProviderError)
    assert got.failure.provider == "openai"
    assert got.failure.message == "m"
    assert "reported an error in mid-stream" in str(got.failure)


def test_usage_beside_an_error_is_kept() -> None:
    """OpenRouter says error, finish and usage in one chunk: all are taken."""
    chunk = {
        "choices": [{"delta": {"content": ""}, "finish_reason": "length"}],
        "error": {"code": 400, "message": "Token limit reached"},
        "usage": {"completion_tokens": 10},
    }
    got = decoded(event(chunk), DONE)
    assert isinstance(got.failure, ProviderError)
    assert (got.failure.status, got.failure.retryable) == (400, False)
    assert got.decoder.usage is not None
    assert got.decoder.usage.output.value == 10


ODD = [
    ("a number for a role", {"choices": [{"delta": {"role": 1, "content": "a"}}]}, ["a"]),
    (
        "a number for a reason",
        {"choices": [{"delta": {"content": "a"}, "finish_reason": 1}]},
        ["a"],
    ),
    ("a list for a model", {"model": [], "choices": [{"delta": {"content": "a"}}]}, ["a"]),
    ("text for usage", {"usage": "x", "choices": [{"delta": {"content": "a"}}]}, ["a"]),
    ("a float for an index", {"choices": [{"index": 0.0, "delta": {"content": "a"}}]}, ["a"]),
    ("one odd choice of two", {"choices": [None, {"delta": {"content": "a"}}]}, ["a"]),
    ("a number for content", {"choices": [{"delta": {"content": 5, "refusal": "r"}}]}, None),
    ("odd tools", {"choices": [{"delta": {"content": "a", "tool_calls": [5, {"id": 3}]}}]}, None),
]


@pytest.mark.parametrize(("said", "expected"), [c[1:] for c in ODD], ids=[c[0] for c in ODD])
def test_one_odd_field_loses_no_token(said: dict[str, Any], expected: list[str] | None) -> None:
    """A field of an unexpected type costs itself, not the chunk."""
    got = decoded(event(said))
    assert got.decoder.malformed == 0
    if expected is not None:
        assert got.chunks == expected
    else:
        assert got.chunks


def test_half_a_surrogate_pair_and_broken_utf8_become_replacements() -> None:
    """Halves of characters, escaped or raw, never reach the reader as such."""
    half = b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n'
    raw = b'data: {"choices":[{"delta":{"content":"b\xff"}}]}\n\n'
    got = decoded(half, raw)
    assert got.chunks == ["a\ufffd", "b\ufffd"]
    assert "".join(map(str, got.chunks)).encode()


@pytest.mark.parametrize("bad", [b"{", b"null", b"[1]", b'"text"', b"5", b"nope", b"[" * 5000])
def test_what_cannot_be_read_is_skipped_and_counted(bad: bytes) -> None:
    """A payload that is no JSON object costs itself only."""
    got = decoded(token("a"), b"data: " + bad + b"\n\n", token("b", "stop"))
    assert got.chunks == ["a", "b"]
    assert got.decoder.malformed == 1
    assert got.failure is None


def test_too_much_that_cannot_be_read_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """Past the limit the stream fails; the log has one line, without the payload."""
    got = decoded(token("a"), b"data: SECRET TEXT\n\n" * 17, token("b", "stop"))
    assert isinstance(got.failure, ProviderError)
    assert got.failure.type == "malformed_stream"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "SECRET" not in caplog.text


def test_a_marker_without_a_reason_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """`[DONE]` ends the stream cleanly even if no finish reason came, with a warning."""
    got = decoded(token("a"), DONE)
    assert got.failure is None
    assert "without a finish reason" in caplog.text


def test_nothing_is_read_after_the_marker() -> None:
    """What follows `[DONE]` is not part of the answer."""
    got = Decoded(StreamDecoder.openai_chat(), [token("a", "stop") + DONE + token("b")])
    assert got.chunks == ["a"]


def test_a_dialect_is_usable_alone() -> None:
    """Payloads can be given to a dialect without any framing."""
    dialect = OpenAIChat()
    assert dialect.decode(b'{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}') == [
        "a"
    ]
    assert dialect.complete
    assert not dialect.done
    assert dialect.decode(b" [DONE] ") == []
    assert dialect.done
