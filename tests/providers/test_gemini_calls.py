"""Function calls in Gemini's responses, whole and in pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamguard_core import Chunk, ChunkKind
from streamguard_providers import ToolFragment
from streamguard_providers.gemini_arguments import GeminiArguments, json_path

from .gemini_events import answer, call, decoded, piece, streamed
from .wire import event


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


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"args": {"a": 1}}, [(None, None, '{"a": 1}')]),
        ({"id": "i"}, [("i", None, "{}")]),
        ({"partialArgs": [{"jsonPath": "$.a", "boolValue": True}]}, [(None, None, '{"a":true}')]),
        ({"willContinue": True}, []),
        ({}, []),
    ],
)
def test_a_call_may_lack_its_name(
    fields: dict[str, Any], expected: list[tuple[str | None, str | None, str]]
) -> None:
    """A call without a name is a call if it has anything; an end without a beginning is nothing."""
    assert decoded(event(call(**fields))).tools() == expected


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
