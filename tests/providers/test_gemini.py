"""The dialect of Google Gemini."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamguard_core import Chunk, ChunkKind, Count, CountSource, TruncatedStream, Usage
from streamguard_providers import (
    Gemini,
    JSONArrayDecoder,
    ProviderError,
    StreamDecoder,
    ToolFragment,
)
from streamguard_providers.gemini_arguments import GeminiArguments, json_path

from .support import DONE, Decoded, event


def decoded(*events: bytes) -> Decoded:
    """Decode a stream."""
    return Decoded(StreamDecoder.gemini(), events)


def answer(
    *parts: dict[str, Any], finish: Any = None, index: int = 0, **more: Any
) -> dict[str, Any]:
    """A payload with one candidate, as Gemini writes it: what is empty is left out."""
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}}
    if finish is not None:
        candidate["finishReason"] = finish
    if index:
        candidate["index"] = index
    return {"candidates": [candidate], **more}


def text(piece: str, **more: Any) -> dict[str, Any]:
    """A payload with a piece of text."""
    return answer({"text": piece}, **more)


def call(**fields: Any) -> dict[str, Any]:
    """A payload with a function call or a piece of one."""
    return answer({"functionCall": fields})


def piece(path: str, **value: Any) -> dict[str, Any]:
    """A piece of a call's arguments."""
    return {"jsonPath": path, **value}


def usage(prompt: int, output: int | None = None, thoughts: int | None = None) -> dict[str, Any]:
    """Usage as Gemini writes it."""
    counts = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": output,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": prompt + (output or 0) + (thoughts or 0),
    }
    return {name: value for name, value in counts.items() if value is not None}


SAID = [
    text("Hm.", usageMetadata={"trafficType": "ON_DEMAND"}, modelVersion="gemini-test"),
    answer({"text": "Sums.", "thought": True}, {"text": "Grüße 🌍"}, usageMetadata=usage(19)),
    call(name="find", id="f1", willContinue=True),
    call(partialArgs=[piece("$.q", stringValue='"]}\\ ', willContinue=True)], willContinue=True),
    call(partialArgs=[piece("$.q", stringValue="\u2028")], willContinue=True),
    call(),
    answer(
        {"text": "", "thoughtSignature": "c2ln"}, finish="STOP", usageMetadata=usage(17, 30, 12)
    ),
]
SSE = b"".join(
    b"data: " + json.dumps(said, ensure_ascii=False).encode() + b"\r\n\r\n" for said in SAID
)
ARRAY = b"[" + b"\n,\r\n".join(json.dumps(s, indent=2).encode() for s in SAID) + b"\n]\n"
FORMS = {"sse": SSE, "array": ARRAY}
#: From here on the last payload is whole, and nothing is missing but framing.
ENDS = {"sse": len(SSE) - 4, "array": len(ARRAY) - 3}


def holds(bounds: Count, true: int | None) -> bool:
    """True when a count allows the true number."""
    assert true is not None
    return bounds.lower <= true and (bounds.upper is None or true <= bounds.upper)


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


@pytest.mark.parametrize("reason", ["STOP", "SAFETY", "A_NEW_ONE", 1, 3, 99])
def test_reasons_are_handed_on_as_they_are(reason: str | int) -> None:
    """Any reason is an end, names that nobody knows yet and numbers (`enum-encoding=int`) too."""
    got = decoded(event(text("a")), event(answer(finish=reason, finishMessage="m")))
    assert (got.decoder.finish, got.failure) == (str(reason), None)


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


# ---------------------------------------------------------------- usage


def test_the_last_usage_with_counts_is_taken_whole() -> None:
    """Usage is cumulative: assigned, not added; one that names the traffic only replaces no counts."""
    traffic = {"trafficType": "ON_DEMAND"}
    got = decoded(
        event(text("a", usageMetadata=traffic)),
        event(
            text("b", usageMetadata=usage(55, 4) | {"promptTokensDetails": [{"tokenCount": 55}]})
        ),
        event(text("c", finish="STOP", usageMetadata=usage(257, 8))),
        event({"usageMetadata": traffic}),
    )
    assert got.decoder.reported == usage(257, 8)
    assert decoded(event(text("a", usageMetadata=traffic))).decoder.reported == traffic
    assert decoded(event(text("a", usageMetadata={}))).decoder.usage is None


@pytest.mark.parametrize(("early", "late"), [(19, 17), (55, 257)])
def test_the_prompt_may_be_counted_again(early: int, late: int) -> None:
    """The prompt's count changes between chunks in both directions: until the end it has no bounds."""
    before = decoded(event(text("a", usageMetadata=usage(early, 4, 9)))).decoder.usage
    assert before is not None
    assert before.input == Count(early, 0, None, CountSource.PROVIDER_CUMULATIVE)
    assert before.output == Count(13, 13, None, CountSource.PROVIDER_CUMULATIVE)
    assert holds(before.input, late)


def test_usage_may_come_after_the_finish_reason() -> None:
    """Usage before the finish reason is not final, usage with or after it is."""
    tells, ends = {"usageMetadata": usage(3, 4)}, text("a", finish="STOP")
    for events, source in (
        ((tells, ends), CountSource.PROVIDER_CUMULATIVE),
        ((ends, tells), CountSource.PROVIDER_FINAL),
        (({**ends, **tells},), CountSource.PROVIDER_FINAL),
    ):
        used = decoded(*map(event, events)).decoder.usage
        assert used is not None
        assert used.output.source is source


USAGES = [
    (usage(25, 1, 66), (25, 67, None, 66)),
    (
        {**usage(10, 5), "toolUsePromptTokenCount": 30, "cachedContentTokenCount": 4},
        (40, 5, 4, None),
    ),
    (usage(10, None, 5), (10, 5, None, 5)),
    ({"promptTokenCount": 10}, (10, None, None, None)),
    ({"promptTokenCount": 10.0, "candidatesTokenCount": "5"}, (10, None, None, None)),
    ({"candidatesTokenCount": 0}, (None, 0, None, None)),
]


@pytest.mark.parametrize(("reported", "expected"), USAGES)
def test_usage_has_its_classes(reported: dict[str, Any], expected: tuple[int | None, ...]) -> None:
    """Thoughts are output, prompts of tools are input; what is not reported is unknown."""
    used = decoded(event(text("a", finish="STOP", usageMetadata=reported))).decoder.usage
    assert used is not None
    counts = (used.input, used.output, used.cached_input, used.reasoning)
    assert tuple(count.value for count in counts) == expected


def test_the_total_bounds_what_is_not_told() -> None:
    """An output that is left out cannot be more than the total leaves for it."""
    said = {"promptTokenCount": 10, "totalTokenCount": 14}
    used = decoded(event(text("a", finish="MAX_TOKENS", usageMetadata=said))).decoder.usage
    assert used is not None
    assert used.output == Count.at_least(0, CountSource.PROVIDER_FINAL, upper=4)


# ---------------------------------------------------------------- function calls


def test_calls_come_whole() -> None:
    """A call is one chunk with its arguments as they were written, `{}` where it has none."""
    got = decoded(
        event(call(name="f", args={"a": [1, "x"]}, id="i")),
        event(call(name="g")),
        event(call(name="h", args=None)),
        event(answer({"functionCall": {"name": "k", "args": {}}, "thoughtSignature": "c2ln"})),
    )
    assert [t[:2] for t in got.tools()] == [("i", "f"), (None, "g"), (None, "h"), (None, "k")]
    assert [json.loads(t[2]) for t in got.tools()] == [{"a": [1, "x"]}, {}, {}, {}]
    assert len(got.chunks) == 4


def streamed(*pieces: dict[str, Any], end: bool = True) -> Decoded:
    """A call whose arguments come in pieces."""
    begin = call(name="f", willContinue=True)
    middle = [call(partialArgs=[one], willContinue=True) for one in pieces]
    return decoded(*map(event, [begin, *middle, *([call()] if end else [])]))


def test_streamed_arguments_are_put_together() -> None:
    """Values of all kinds find their places, and texts at one path are joined."""
    got = streamed(
        piece("$.to.city", stringValue="Bos", willContinue=True),
        piece("$.to.city", stringValue="ton", willContinue=True),
        piece("$.to.city", stringValue=""),
        piece("$.to.city", willContinue=True),
        piece("$.days[0].n", numberValue=3),
        piece("$.days[0].sunny", boolValue=False),
        piece("$.days[1].n", numberValue=2.5),
        piece("$.days[1].note", nullValue="NULL_VALUE"),
        piece("$.days[1].more", nullValue=None),
        piece("$['with space']", stringValue="1"),
        piece('$["a.b"]["c\\"d"]', stringValue="2"),
    )
    [(_, name, arguments)] = got.tools()
    assert name == "f"
    assert json.loads(arguments) == {
        "to": {"city": "Boston"},
        "days": [{"n": 3, "sunny": False}, {"n": 2.5, "note": None, "more": None}],
        "with space": "1",
        "a.b": {'c"d': "2"},
    }


def test_pieces_are_told_of_as_they_come() -> None:
    """Each of Gemini's pieces is a tool chunk, so that nobody takes a long call for silence."""
    got = streamed(piece("$.a", stringValue="x", willContinue=True), piece("$.a", stringValue="y"))
    assert [str(chunk) for chunk in got.chunks] == ["", "", "", '{"a":"xy"}']
    assert all(chunk for chunk in got.chunks)


def test_the_last_piece_may_end_the_call() -> None:
    """A piece that says nothing of more to come is the last one."""
    last = call(partialArgs=[piece("$.a", numberValue=1)])
    assert decoded(event(call(name="f", willContinue=True)), event(last)).tools()[0][2] == '{"a":1}'
    alone = call(name="f", partialArgs=[piece("$.a", numberValue=1)])
    assert decoded(event(alone)).tools() == [(None, "f", '{"a":1}')]


def test_an_interrupted_call_has_no_arguments() -> None:
    """What was streamed of a call is not handed over before it is whole, nor when the next one begins."""
    half = streamed(piece("$.a", stringValue="x"), end=False)
    assert half.tools() == [(None, "f", "")]
    events = [call(name="f", willContinue=True), call(name="g", willContinue=True), call()]
    assert decoded(*map(event, events)).tools() == [(None, "f", ""), (None, "g", "{}")]


def test_pieces_may_repeat_the_calls_id() -> None:
    """A piece with the id of the open call belongs to it, even if it has the name again."""
    events = [
        call(name="f", id="i", willContinue=True, args={"given": True}),
        call(name="f", id="i", partialArgs=[piece("$.a", numberValue=1)], willContinue=True),
        call(name="f", id="i"),
        call(),
    ]
    assert decoded(*map(event, events)).tools() == [("i", "f", '{"given":true,"a":1}')]


@pytest.mark.parametrize(
    "path",
    [
        *("", "$", "$.", "a", "$..a", "$.a[-1]", "$[*]", "$.a[", "$['a", "$['\\x']", None),
        *("$" + ".a" * 65, "$[9999999]", "$.a[2000][0]"),
    ],
)
def test_a_piece_that_cannot_be_placed_spoils_its_call(path: str | None) -> None:
    """A call with a piece that cannot be read must not look like one that can be made."""
    got = streamed(piece("$.b", numberValue=1), piece(path or "", stringValue="x"), piece("$.c"))
    assert got.tools() == [(None, "f", "")]
    assert got.decoder.malformed == 1


def test_arguments_are_bounded() -> None:
    """Neither far jumps in arrays nor endless texts take memory without end."""
    jumps = GeminiArguments()
    assert all(jumps.put(f"$.a{n}[99]", 1) for n in range(10))
    assert not all(jumps.put(f"$.b{n}[99]", 1) for n in range(10))
    endless = GeminiArguments()
    assert not all(endless.put("$.a", "x" * 65536) for _ in range(100))


@given(
    st.recursive(
        st.text(max_size=5) | st.integers(-9, 9) | st.booleans() | st.none(),
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3)
            | st.dictionaries(st.text(min_size=1, max_size=3), inner, min_size=1, max_size=3)
        ),
        max_leaves=8,
    ).filter(lambda value: isinstance(value, dict)),
    st.booleans(),
)
@settings(deadline=None)
def test_any_arguments_survive(arguments: dict[str, Any], single: bool) -> None:
    """Arguments taken apart into values at paths, and texts into letters, are put together again."""
    put_together = GeminiArguments()

    def take_apart(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                quoted = json.dumps(name)
                if single:
                    quoted = "'" + quoted[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"
                take_apart(inner, f"{path}[{quoted}]")
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                take_apart(inner, f"{path}[{index}]")
        else:
            for one in (list(value) or [""]) if isinstance(value, str) else [value]:
                assert put_together.put(path, one)

    take_apart(arguments, "$")
    assert json.loads(put_together.text()) == arguments


def test_paths() -> None:
    """The steps of a path are names and indexes."""
    assert json_path("$.a.b[0]") == ["a", "b", 0]
    assert json_path("$['it\\'s \"x\"'][12]") == ['it\'s "x"', 12]
    assert json_path("$") == []


def test_the_providers_own_tools_are_marked() -> None:
    """Calls of tools that Gemini runs itself are told of, and say that they are not ours to execute."""
    own = {"toolCall": {"id": "t", "toolType": "GOOGLE_SEARCH", "args": {"q": "x"}}}
    got = decoded(event(answer(own)), event(answer({"toolCall": {"toolType": 3}})))
    assert got.tools() == [("t", "GOOGLE_SEARCH", '{"q": "x"}'), (None, "3", "{}")]
    assert isinstance(got.chunks[0], Chunk)
    assert ToolFragment.of(got.chunks[0]).kind == "toolCall"


@pytest.mark.parametrize(
    "part",
    [
        {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
        {"fileData": {"fileUri": "gs://x"}},
        {"executableCode": {"language": "PYTHON", "code": "print(1)"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
    ],
)
def test_other_parts_are_data(part: dict[str, Any]) -> None:
    """Pictures, code and its results are handed on as they came, as data without text."""
    got = decoded(event(answer(part, {"newPart": 1, "inlineData": None})))
    [chunk] = got.chunks
    assert isinstance(chunk, Chunk)
    assert (chunk.text, chunk.kind, json.loads(chunk.data)) == ("", ChunkKind.DATA, part)


# ---------------------------------------------------------------- errors

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
    got = streamed(piece("$.b", numberValue=1), bad)
    assert got.tools() == [(None, "f", "")]


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
