"""Errors and oddities in Gemini's responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamguard_core import Chunk, ChunkKind
from streamguard_providers import Gemini, ProviderError, ToolFragment

from .gemini_events import answer, call, decoded, piece, streamed, text
from .wire import event

REPORTED = {"code": 503, "message": "m", "status": "UNAVAILABLE"}
ERRORS = [
    ("in mid-stream", event({"error": REPORTED})),
    ("in a list", event([{"error": REPORTED}])),
    ("named", b"event: error\n" + event({"error": REPORTED})),
    ("named, flat", b"event: error\n" + event(REPORTED)),
    ("a document", json.dumps({"error": REPORTED}, indent=1).encode()),
    ("in the array form", json.dumps([{"error": REPORTED}], indent=1).encode()),
    ("beside candidates", event({"candidates": [], "error": REPORTED})),
]


@pytest.mark.parametrize("said", [case[1] for case in ERRORS], ids=[case[0] for case in ERRORS])
def test_errors_inside_a_200(said: bytes) -> None:
    """An error in any shape is found; what came before it is kept, text after it is not."""
    document = said.startswith((b"{", b"["))
    stream = said if document else event(text("a")) + said + event(text("b", finish="STOP"))
    for pieces in ([stream], [stream[i : i + 1] for i in range(len(stream))]):
        got = decoded(*pieces)
        assert got.chunks == ([] if document else ["a"])
        failure = got.failure
        assert isinstance(failure, ProviderError)
        assert (failure.provider, failure.type, failure.message) == ("gemini", "UNAVAILABLE", "m")
        assert (failure.status, failure.code, failure.retryable) == (503, "503", True)
        assert not got.decoder.dialect.complete


@pytest.mark.parametrize(
    ("status", "means", "retryable"),
    [
        ("INVALID_ARGUMENT", 400, False),
        ("PERMISSION_DENIED", 403, False),
        ("RESOURCE_EXHAUSTED", 429, True),
        ("INTERNAL", 500, True),
        ("DEADLINE_EXCEEDED", 504, True),
    ],
)
def test_what_an_error_means(status: str, means: int, retryable: bool) -> None:
    """Without a code, the name of the status says what it would have been."""
    failure = decoded(event({"error": {"status": status}})).failure
    assert isinstance(failure, ProviderError)
    assert (failure.status, failure.retryable) == (means, retryable)


@pytest.mark.parametrize(
    ("details", "seconds"),
    [
        ([{"@type": "a"}, {"@type": "RetryInfo", "retryDelay": "27.5s"}], 27.5),
        ([{"retryDelay": "soon"}], None),
        ("odd", None),
    ],
)
def test_how_long_to_wait(details: Any, seconds: float | None) -> None:
    """An error's details may say when to try again."""
    said = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details}}
    failure = decoded(event(said)).failure
    assert isinstance(failure, ProviderError)
    assert failure.retry_after == seconds


def test_an_error_that_is_a_text() -> None:
    """A text is an error as well, and the first error counts."""
    got = decoded(event({"error": "m"}) + event({"error": {"code": 400, "message": "x"}}))
    assert isinstance(got.failure, ProviderError)
    assert got.failure.message == "m"


# ---------------------------------------------------------------- oddities

ODD: list[tuple[str, dict[str, Any]]] = [
    ("a number for a model", text("a", modelVersion=5)),
    ("a list for usage", text("a", usageMetadata=[])),
    (
        "a float for an index",
        {"candidates": [{"index": 0.0, "content": {"parts": [{"text": "a"}]}}]},
    ),
    ("text for thought", answer({"text": "a", "thought": "yes"})),
    ("an odd part", {"candidates": [{"content": {"parts": [5, {"text": "a"}]}}]}),
    ("an odd candidate", {"candidates": [5, {"content": {"parts": [{"text": "a"}]}}]}),
    ("odd feedback", text("a", promptFeedback="none")),
]


@pytest.mark.parametrize("said", [case[1] for case in ODD], ids=[case[0] for case in ODD])
def test_one_odd_field_loses_no_token(said: dict[str, Any]) -> None:
    """A field of an unexpected type costs itself, not the chunk."""
    got = decoded(event(said))
    assert got.chunks == ["a"]
    assert got.decoder.malformed == 0


def test_odd_calls_are_taken_as_far_as_they_can_be_read() -> None:
    """The lenient way reads calls, pieces of calls and parts of other kinds too."""
    odd = {"modelVersion": 5}
    pieces = [piece("$.c", boolValue=True), piece("$.d", numberValue=2), piece("$.d")]
    got = decoded(
        event(call(name="f", id=7, args={"a": 1}) | odd),
        event(call(name="g", willContinue=True) | odd),
        event(call(partialArgs=pieces, willContinue="no") | odd),
        event(answer({"toolCall": {"toolType": [], "args": None}}, {"inlineData": {"x": 1}}) | odd),
        event({"candidates": [{"finishReason": {"odd": 1}}]}),
    )
    calls = [(id_, name, json.loads(arguments)) for id_, name, arguments in got.tools()]
    assert calls == [(None, "f", {"a": 1}), (None, "g", {"c": True, "d": 2}), (None, "[]", {})]
    assert got.decoder.finish == "{'odd': 1}"
    assert isinstance(got.chunks[-1], Chunk)
    assert got.chunks[-1].kind is ChunkKind.DATA


@pytest.mark.parametrize(
    "bad", [5, piece("$.a", stringValue=1), piece("$.a", numberValue="Infinity"), {"x": 1}]
)
def test_an_odd_piece_spoils_its_call(bad: Any) -> None:
    """A value that is not certain must not be guessed in a call that may be made."""
    got = streamed(piece("$.b", numberValue=1), bad, bad)
    assert got.tools() == [(None, "f", "")]
    assert got.decoder.malformed == 1


def test_half_characters_in_arguments_become_replacements() -> None:
    """Halves of characters in arguments raise nothing, whole or in pieces."""
    half = "a\ud83d"
    whole = decoded(event(call(name="f", args={"a": half})))
    assert json.loads(whole.tools()[0][2]) == {"a": "a\ufffd"}
    assert json.loads(streamed(piece("$.a", stringValue=half)).tools()[0][2]) == {"a": "a\ufffd"}
    named = streamed(piece(f"$.{half}", stringValue="x"))
    assert json.loads(named.tools()[0][2]) == {"a\ufffd": "x"}
    given = decoded(event(call(name="f", args={"a": half}, willContinue=True)), event(call()))
    assert json.loads(given.tools()[0][2]) == {"a": "a\ufffd"}


def test_half_a_surrogate_pair_becomes_a_replacement() -> None:
    """Halves of characters never reach the reader as such."""
    half = b'data: {"candidates":[{"content":{"parts":[{"text":"a\\ud83d"}]}}]}\n\n'
    assert decoded(half).chunks == ["a\ufffd"]


@pytest.mark.parametrize(
    "bad", [b"{", b"null", b"[1]", b"[]", b'"text"', b"5", b"nope", b"[" * 5000]
)
def test_what_cannot_be_read_is_skipped_and_counted(bad: bytes) -> None:
    """A payload that is no JSON object costs itself only."""
    got = decoded(event(text("a")), b"data: " + bad + b"\n\n", event(text("b", finish="STOP")))
    assert got.chunks == ["a", "b"]
    assert got.decoder.malformed == 1
    assert got.failure is None


FIELDS = st.sampled_from(
    [
        *("text", "thought", "functionCall", "toolCall", "inlineData", "name"),
        *("args", "id", "partialArgs", "jsonPath", "stringValue", "numberValue"),
        *("nullValue", "willContinue", "error", "code", "status", "details"),
        *(
            "retryDelay",
            "promptTokenCount",
            "totalTokenCount",
            "candidatesTokenCount",
            "blockReason",
        ),
    ]
)
VALUES = st.recursive(
    st.sampled_from(["$.a", "$.a[0]", "$['b']", "STOP", "9s", "\ud83d"])
    | st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.floats(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(FIELDS, inner, max_size=5),
    max_leaves=12,
)
PARTS = st.dictionaries(FIELDS, VALUES, max_size=3) | VALUES


@given(st.lists(st.tuples(st.lists(PARTS, max_size=3), VALUES, VALUES, VALUES, VALUES), max_size=5))
@settings(deadline=None)
def test_nothing_that_comes_raises(payloads: list[tuple[Any, ...]]) -> None:
    """Whatever objects come, decoding gives text that can be encoded, and no exception."""
    dialect = Gemini()
    for parts, finish, used, feedback, error in payloads:
        candidate = {"content": {"parts": parts}, "finishReason": finish, "index": used}
        said = {"candidates": [candidate], "usageMetadata": used, "promptFeedback": feedback}
        for chunk in dialect.decode(json.dumps({**said, "error": error}).encode()):
            assert str(chunk).encode().decode() == str(chunk)
            if isinstance(chunk, Chunk) and chunk.kind is ChunkKind.TOOL:
                assert ToolFragment.of(chunk).index >= 0
        assert dialect.usage is None or dialect.usage.reported == dialect.reported
        assert not (dialect.complete and dialect.error)
