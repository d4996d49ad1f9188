"""Errors and oddities in Anthropic's messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamguard_providers import Anthropic, ProviderError

from .anthropic_events import END, TOOL, block, decoded, said, start, stop, stop_block, text
from .wire import event

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
    dialect.decode(block(1, "tool_use", **TOOL).split(b"data: ")[1])
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


FIELDS = st.sampled_from(
    [
        *("index", "delta", "content_block", "message", "usage", "error"),
        *("type", "text", "thinking", "partial_json", "stop_reason", "id"),
        *("name", "input", "model", "content", "input_tokens", "output_tokens"),
        *("iterations", "output_tokens_details"),
    ]
)
KINDS = [one.split(b'"')[3].decode() for one in (start(), block(), text(""), stop(), END)]
VALUES = st.recursive(
    st.sampled_from(["text", "tool_use", "compaction", "text_delta", "input_json_delta", "\ud83d"])
    | st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.floats(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(FIELDS, inner, max_size=5),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(FIELDS, VALUES, max_size=5), max_size=6), st.data())
@settings(deadline=None)
def test_nothing_that_comes_raises(payloads: list[dict[str, Any]], data: st.DataObject) -> None:
    """Whatever objects come, decoding gives text that can be encoded, and no exception."""
    dialect = Anthropic()
    for payload in payloads:
        kind = data.draw(st.sampled_from([*KINDS, "message", "error", "ping"]))
        for chunk in dialect.decode(json.dumps({"type": kind, **payload}).encode()):
            assert str(chunk).encode().decode() == str(chunk)
        assert dialect.usage is None or dialect.usage.reported == dialect.reported
        assert not (dialect.complete and dialect.error)
        assert dialect.total_usage is None or dialect.reported
    assert dialect.malformed == 0
