"""What a response came to: accumulated text, tool calls that may be executed or not, and its end."""

from __future__ import annotations

import tracemalloc

import pytest

from streamguard_core import Chunk, ChunkKind, TruncatedStream, UsageError
from streamguard_providers import (
    End,
    EndState,
    Obstacle,
    ProviderError,
    StreamAccumulator,
    ToolCall,
    ToolFragment,
)
from streamguard_providers.dialects import tool_chunk

STOP = {0: "stop"}


def called(*pieces: object, kind: str | None = None, finish: str | None = "stop") -> ToolCall:
    """A call whose arguments came in those pieces."""
    accumulator = StreamAccumulator()
    accumulator.add(tool_chunk(ToolFragment(id="c", name="f", kind=kind), None))
    accumulator.extend(tool_chunk(ToolFragment(), piece) for piece in pieces)
    (call,) = accumulator.tool_calls({} if finish is None else {0: finish})
    return call


def test_kinds_and_choices_are_kept_apart() -> None:
    """Text, thoughts and refusals add up per choice, whatever form a chunk has."""
    accumulator = StreamAccumulator()
    accumulator.extend(
        [
            "a",
            Chunk("b"),
            Chunk("other", choice=1),
            Chunk("hm", ChunkKind.REASONING),
            Chunk("no", ChunkKind.REFUSAL, b"", 1),
            Chunk("", ChunkKind.DATA, b"1234"),
            b"56",
            "c",
        ]
    )
    assert (accumulator.text(), accumulator.text(1), accumulator.text(2)) == ("abc", "other", "")
    assert (accumulator.reasoning(), accumulator.refusal(1)) == ("hm", "no")
    assert accumulator.choices == [0, 1]
    assert (accumulator.chunks, accumulator.size(ChunkKind.DATA)) == (8, 6)
    assert accumulator.size(ChunkKind.TEXT) == 8
    accumulator.add("d")
    assert accumulator.text() == "abcd"


def test_thousands_of_parts_are_joined_in_order() -> None:
    """How many parts a text comes in makes no difference."""
    accumulator = StreamAccumulator()
    parts = [str(number) for number in range(5000)]
    for part in parts:
        accumulator.add(part)
    assert accumulator.text() == "".join(parts)


def test_tool_calls_are_put_together() -> None:
    """Pieces go to their call by choice and index; the first id and name count."""
    accumulator = StreamAccumulator()
    for choice, fragment, piece in (
        (1, ToolFragment(index=0, id="x", name="g"), "{}"),
        (0, ToolFragment(index=0, id="a", name="f"), '{"q"'),
        (0, ToolFragment(index=1, id="b", name="f"), '{"r":2}'),
        (0, ToolFragment(index=0, id="later", name="later"), ":1}"),
    ):
        accumulator.add(tool_chunk(fragment, piece, choice))
    calls = accumulator.tool_calls(STOP)
    assert [(c.choice, c.index, c.id, c.name, c.arguments) for c in calls] == [
        (0, 0, "a", "f", '{"q":1}'),
        (0, 1, "b", "f", '{"r":2}'),
        (1, 0, "x", "g", "{}"),
    ]
    assert [call.executable for call in calls] == [True, True, False]
    assert not any(call.executable for call in accumulator.tool_calls())


@pytest.mark.parametrize(
    ("pieces", "obstacle"),
    [
        (['{"a":', "1}"], None),
        (["{}"], None),
        ([], Obstacle.NOT_JSON),
        (['{"a":'], Obstacle.NOT_JSON),
        (['{"a":1}{'], Obstacle.NOT_JSON),
        (["[1]"], Obstacle.NOT_JSON),
        (["12"], Obstacle.NOT_JSON),
        (['{"a":NaN}'], Obstacle.NOT_JSON),
        (["[" * 100_000], Obstacle.NOT_JSON),
    ],
)
def test_arguments_are_one_whole_object(pieces: list[str], obstacle: Obstacle | None) -> None:
    """Anything else must not be executed."""
    assert called(*pieces).obstacle is obstacle


def test_what_must_not_be_executed() -> None:
    """An interrupted call is not executable however whole it looks, nor is one of the provider's."""
    assert called("{}", finish=None).obstacle is Obstacle.INTERRUPTED
    assert called("{}", kind="server_tool_use").obstacle is Obstacle.FOREIGN
    assert called("{}", finish="length").executable
    assert called('{"a', finish="length").obstacle is Obstacle.NOT_JSON


@pytest.mark.parametrize("finish", ["tool_calls", "tool_use", "function_call"])
def test_a_call_without_arguments_takes_none(finish: str) -> None:
    """Some servers write nothing where others write {}: whole, if the provider says that it calls."""
    assert called(finish=finish).executable
    assert called(finish="length").obstacle is Obstacle.NOT_JSON


@pytest.mark.parametrize(
    "finish", ["content_filter", "refusal", "MALFORMED_FUNCTION_CALL", "error"]
)
def test_reasons_that_break_an_answer_off_leave_no_call(finish: str) -> None:
    """Whole as it may look, a call of a choice that was withheld or broken off is interrupted."""
    assert called("{}", finish=finish).obstacle is Obstacle.INTERRUPTED


def test_a_call_without_a_name_is_not_executable() -> None:
    """Nothing says which tool it is for."""
    accumulator = StreamAccumulator()
    accumulator.add(tool_chunk(ToolFragment(id="c"), "{}"))
    (call,) = accumulator.tool_calls(STOP)
    assert call.obstacle is Obstacle.UNNAMED


def test_a_custom_tool_takes_any_text() -> None:
    """Its call is the application's; as no text shows that it is whole, a cut-off answer has none."""
    assert called("SELECT 1", kind="custom_tool_call", finish="completed").executable
    for finish in (None, "incomplete", "MAX_TOKENS"):
        cut_off = called("SELECT 1", kind="custom_tool_call", finish=finish)
        assert cut_off.obstacle is Obstacle.INTERRUPTED


def test_what_it_keeps_is_bounded() -> None:
    """Past the limit it keeps a beginning of the answer, and counts on."""
    accumulator = StreamAccumulator(max_output_bytes=300)
    accumulator.extend(["x" * 40, "ü" * 10, "y", Chunk("z", ChunkKind.REASONING), "late"])
    assert accumulator.text() == "x" * 40
    assert (accumulator.reasoning(), accumulator.dropped_bytes) == ("", 26)
    assert accumulator.size(ChunkKind.TEXT) == 65
    with pytest.raises(UsageError, match="at least 0"):
        StreamAccumulator(-1)


def test_a_call_that_was_not_kept_whole_is_not_executable() -> None:
    """Arguments that passed the limit may look whole without their rest."""
    accumulator = StreamAccumulator(max_output_bytes=600)
    named = ToolFragment(name="f")
    accumulator.extend(tool_chunk(named, piece) for piece in ("{}", " " * 500, "x"))
    (call,) = accumulator.tool_calls(STOP)
    assert (call.arguments, call.obstacle) == ("{}", Obstacle.TOO_LARGE)


@pytest.mark.parametrize("flood", ["text", "choices", "calls", "names"])
def test_memory_is_bounded(flood: str) -> None:
    """Endless text, choices, calls and names are counted, and not kept."""
    accumulator = StreamAccumulator(max_output_bytes=100_000)
    tracemalloc.start()
    for number in range(20_000):
        match flood:
            case "text":
                accumulator.add("x" * 20)
            case "choices":
                accumulator.add(Chunk("", choice=number))
            case "calls":
                accumulator.add(tool_chunk(ToolFragment(index=number), None))
            case "names":
                accumulator.add(tool_chunk(ToolFragment(index=number, name="n" * 1000), None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert accumulator.chunks == 20_000
    assert peak < 600_000


def test_counts_only() -> None:
    """With a limit of nothing it counts and keeps nothing."""
    accumulator = StreamAccumulator(0)
    accumulator.extend(["abc", tool_chunk(ToolFragment(), "{}")])
    assert (accumulator.text(), accumulator.tool_calls(STOP)) == ("", ())
    assert (accumulator.size(ChunkKind.TEXT), accumulator.size(ChunkKind.TOOL)) == (3, 2)


def test_nothing_of_the_answer_shows() -> None:
    """Neither an accumulator nor a call nor an end shows text in its repr."""
    accumulator = StreamAccumulator()
    accumulator.extend(["secret", tool_chunk(ToolFragment(name="secret"), '{"secret":1}')])
    calls = accumulator.tool_calls(STOP)
    end = End(state=EndState.REFUSED, refusal="secret", tool_calls=calls)
    assert "secret" not in f"{accumulator!r} {calls!r} {end!r}"


def test_an_end_raises_what_is_missing() -> None:
    """`check` passes for an answer that is whole, and raises the documented errors for others."""
    for state in EndState:
        cause = ConnectionResetError()
        end = End(state=state, cause=cause)
        if state is EndState.PROVIDER_ERROR:
            with pytest.raises(ProviderError):
                End(state=state, error=ProviderError("it failed")).check()
        elif state in {EndState.TRUNCATED, EndState.STALLED, EndState.CANCELLED}:
            with pytest.raises(TruncatedStream) as caught:
                end.check()
            assert caught.value.__cause__ is cause
            assert not end.complete
        else:
            end.check()
            assert end.complete is (state is not EndState.COMPLETED_UNCONFIRMED)
