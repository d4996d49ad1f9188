"""The dialect of Google Gemini."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamguard_core import Chunk, ChunkKind, Count, CountSource, TruncatedStream, Usage
from streamguard_providers import Gemini, JSONArrayDecoder, ToolFragment

from .gemini_events import ARRAY, ENDS, FORMS, answer, decoded, holds, text, usage
from .wire import DONE, event


@pytest.mark.parametrize("form", FORMS)
def test_a_response(form: str) -> None:
    """Text, thoughts and a call come as chunks of their kinds, in both forms of the stream."""
    got = decoded(FORMS[form])
    assert got.chunks[:3] == ["Hm.", Chunk("Sums.", ChunkKind.REASONING), "Grüße 🌍"]
    [(id_, name, arguments)] = got.tools()
    assert (id_, name, json.loads(arguments)) == ("f1", "find", {"q": '"]}\\ \u2028'})
    assert (got.decoder.finish, got.decoder.model) == ("STOP", "gemini-test")
    assert not got.decoder.done
    assert got.failure is None
    used = got.decoder.usage
    assert used is not None
    assert used.input == Count.exact(17, CountSource.PROVIDER_FINAL)
    assert (used.output.value, used.reasoning.value) == (42, 12)
    assert used.reported == usage(17, 30, 12)


@pytest.mark.parametrize("form", FORMS)
def test_every_single_cut_gives_the_same(form: str) -> None:
    """A stream cut in two at any byte is read as the whole one."""
    data = FORMS[form]
    expected = decoded(data).summary()
    for place in range(len(data) + 1):
        assert decoded(data[:place], data[place:]).summary() == expected


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_random_cuts_give_the_same(form: str, data: st.DataObject) -> None:
    """A stream cut anywhere, any number of times, is read as the whole one."""
    stream = FORMS[form]
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=40).map(sorted))
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    assert decoded(*pieces).summary() == decoded(stream).summary()


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_cut_before_its_end_is_truncated(form: str) -> None:
    """Before the payload with the finish reason no byte is an end, and known usage holds the true one."""
    data, whole = FORMS[form], decoded(FORMS[form]).decoder.usage
    assert whole is not None
    for place in range(len(data) + 1):
        got = decoded(data[:place])
        assert isinstance(got.failure, TruncatedStream) == (place < ENDS[form]), place
        used = got.decoder.usage or Usage()
        for name in ("input", "output", "reasoning"):
            assert holds(getattr(used, name), getattr(whole, name).value), (place, name)


# ---------------------------------------------------------------- the array form


@pytest.mark.parametrize("before", [b"", b"\n ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
def test_an_array_is_known_by_its_first_byte(before: bytes) -> None:
    """Whatever content type it has, and cut anywhere, a body that begins with a bracket is the array."""
    data = before + ARRAY
    expected = decoded(ARRAY).summary()
    for size in (1, 2, 5, len(data)):
        got = decoded(*[data[i : i + size] for i in range(0, len(data), size)])
        assert got.summary() == expected
        assert isinstance(got.decoder.framing, JSONArrayDecoder)
        assert got.decoder.framing.offset == len(data)


@pytest.mark.parametrize("end", [b"", b"\n", b",\n", b"]", b"]\r\n"])
def test_the_closing_bracket_may_be_missing(end: bytes) -> None:
    """After the finish reason the array is whole, with or without its bracket."""
    body = b"[" + json.dumps(text("a", finish="STOP")).encode() + end
    assert decoded(body).failure is None
    assert isinstance(decoded(b"[" + json.dumps(text("a")).encode() + end).failure, TruncatedStream)


def test_a_payload_cut_in_half_after_a_finish_reason() -> None:
    """A body that breaks off within a payload is truncated, even if it had a finish reason already."""
    first, second = text("a", finish="STOP"), text("b", finish="STOP")
    assert isinstance(decoded(event(first), event(second)[:-9]).failure, TruncatedStream)
    array = json.dumps([first, second]).encode()
    assert isinstance(decoded(array[:-9]).failure, TruncatedStream)
    assert decoded(array).failure is None


def test_a_whole_answer_in_place_of_a_stream() -> None:
    """What `generateContent` answers is one object, which is read as such."""
    got = decoded(
        json.dumps(text("all", finish="STOP", usageMetadata=usage(3, 4)), indent=1).encode()
    )
    assert (got.chunks, got.decoder.finish, got.failure) == (["all"], "STOP", None)


# ---------------------------------------------------------------- ends


def test_the_last_finish_reason_counts() -> None:
    """A finish reason may come in every chunk, with text after it; the last one is the reason."""
    got = decoded(
        event(text("a", finish="STOP")), event(text("b")), event(text("c", finish="MAX_TOKENS"))
    )
    assert got.chunks == ["a", "b", "c"]
    assert (got.decoder.finish, got.failure) == ("MAX_TOKENS", None)
    late = decoded(event(text("a", finish="STOP")), event(text("b")))
    assert (late.chunks, late.decoder.finish, late.failure) == (["a", "b"], "STOP", None)


@pytest.mark.parametrize("reason", ["STOP", "SAFETY", "A_NEW_ONE", 1, 3, 99])
def test_reasons_are_handed_on_as_they_are(reason: str | int) -> None:
    """Any reason is an end, names that nobody knows yet and numbers (`enum-encoding=int`) too."""
    got = decoded(event(text("a")), event(answer(finish=reason, finishMessage="m")))
    assert (got.decoder.finish, got.failure) == (str(reason), None)


@pytest.mark.parametrize(
    ("reason", "name"), [(1, "STOP"), (2, "MAX_TOKENS"), (99, "99"), ("SPII", "SPII"), (None, None)]
)
def test_numbers_of_reasons_have_names(reason: str | int | None, name: str | None) -> None:
    """A number has a name where both services use it for the same reason."""
    dialect = decoded(event(answer(finish=reason))).decoder.dialect
    assert isinstance(dialect, Gemini)
    assert dialect.finish_name == name


@pytest.mark.parametrize("reason", [None, 0, "", "FINISH_REASON_UNSPECIFIED"])
def test_an_unspecified_reason_is_none(reason: str | int | None) -> None:
    """The enum's zero says that the model has not stopped."""
    got = decoded(event({"candidates": [{"content": {}, "finishReason": reason}]}))
    assert got.decoder.finish is None
    assert isinstance(got.failure, TruncatedStream)


def test_what_is_said_of_a_reason_can_be_read() -> None:
    """The finish message is kept beside the reason."""
    candidate = {"finishReason": "MALFORMED_FUNCTION_CALL", "finishMessage": "Malformed: f("}
    dialect = decoded(event({"candidates": [candidate]})).decoder.dialect
    assert isinstance(dialect, Gemini)
    assert dialect.finish_message == "Malformed: f("


def test_candidates_are_kept_apart() -> None:
    """With several candidates each chunk says which, and each must have its reason."""
    events = [
        event(answer({"text": "b"}, index=1)),
        event(text("a", finish="STOP")),
        event(answer({"functionCall": {"name": "f"}}, index=1, finish="SAFETY")),
    ]
    got = decoded(*events)
    assert got.chunks[:2] == [Chunk("b", choice=1), "a"]
    assert isinstance(got.chunks[2], Chunk)
    assert (got.chunks[2].choice, ToolFragment.of(got.chunks[2]).index) == (1, 0)
    assert (got.decoder.finish, got.failure) == ("STOP", None)
    assert isinstance(decoded(*events[:2]).failure, TruncatedStream)
    first = decoded(events[2], events[1]).decoder
    assert first.finish == "STOP"


@pytest.mark.parametrize("reason", ["SAFETY", 1])
@pytest.mark.parametrize("form", FORMS)
def test_a_blocked_prompt_is_an_end(reason: str | int, form: str) -> None:
    """A prompt that was blocked has no candidates and no finish reason, and is no truncation."""
    said = {"promptFeedback": {"blockReason": reason}, "usageMetadata": usage(8)}
    got = decoded(event(said) if form == "sse" else json.dumps([said]).encode())
    dialect = got.decoder.dialect
    assert isinstance(dialect, Gemini)
    assert (dialect.blocked, dialect.finish, got.failure) == (str(reason), None, None)
    assert dialect.usage is not None
    assert dialect.usage.input == Count.exact(8, CountSource.PROVIDER_FINAL)
    assert dialect.usage.output == Count.at_least(0, CountSource.PROVIDER_FINAL, upper=0)


def test_feedback_without_a_reason_is_no_block() -> None:
    """Ratings of the prompt come with ordinary answers, too."""
    got = decoded(event({"promptFeedback": {"safetyRatings": []}}), event(text("a")))
    assert isinstance(got.failure, TruncatedStream)


@pytest.mark.parametrize(
    "said", [{}, {"candidates": []}, {"candidates": [{}]}, {"responseId": "r"}]
)
@pytest.mark.parametrize("content", [None, {}, {"parts": None}, {"parts": []}, {"parts": [{}]}])
def test_chunks_may_lack_anything(said: dict[str, Any], content: Any) -> None:
    """A chunk without candidates, content, parts or text is nothing, and no fault."""
    candidate = {} if content is None else {"candidates": [{"content": content}]}
    got = decoded(event({**said, **candidate}), event(text("a", finish="STOP")))
    assert (got.chunks, got.decoder.malformed, got.failure) == (["a"], 0, None)


def test_a_gateways_marker_is_nothing() -> None:
    """`[DONE]` is no payload that cannot be read, and no end."""
    got = decoded(event(text("a", finish="STOP")), DONE)
    assert (got.decoder.malformed, got.failure) == (0, None)
    assert isinstance(decoded(event(text("a")), DONE).failure, TruncatedStream)
