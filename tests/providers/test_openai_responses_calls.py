"""Tool calls of the responses API: whose they are, what they hold, and what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamguard_core import Chunk, ChunkKind
from streamguard_providers import ProviderError, StreamDecoder, ToolFragment

from .decoding import Decoded
from .wire import event


def decoded(*events: bytes) -> Decoded:
    """Decode a stream."""
    return Decoded(StreamDecoder.openai_responses(), events)


def said(kind: str, **fields: Any) -> bytes:
    """An event of the first output item."""
    return event({"type": f"response.{kind}", "output_index": 0, **fields})


def kinds(got: Decoded) -> list[str | None]:
    """The provider's words for the calls, in their order."""
    fragments = [ToolFragment.of(c) for c in got.chunks if isinstance(c, Chunk) and c.data]
    return [fragment.kind for fragment in fragments if fragment.id or fragment.kind]


@pytest.mark.parametrize(
    ("piece", "kind"),
    [
        ("function_call_arguments", None),
        ("mcp_call_arguments", "mcp_call"),
        ("custom_tool_call_input", "custom_tool_call"),
        ("code_interpreter_call_code", "code_interpreter_call"),
    ],
)
def test_pieces_without_a_beginning_say_whose_call_it_is(piece: str, kind: str | None) -> None:
    """A reader who joins late never takes a call of the provider's own tools for the application's."""
    got = decoded(said(f"{piece}.delta", item_id="it", delta="{}"))
    assert got.tools() == [("it", None, "{}")]
    assert kinds(got) == [kind]


def test_a_shells_output_is_no_call() -> None:
    """What came of a command is no piece of one, whatever its form."""
    got = decoded(
        said("shell_call_output_content.delta", command_index=0, delta={"stdout": "x"}),
        said("shell_call_output_content.delta", command_index=0, delta="x"),
        said("shell_call_output_content.done", output=[{"stdout": "x"}]),
    )
    assert got.chunks == []


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("shell_call", "action", {"commands": ["ls -a", "pwd"]}),
        ("local_shell_call", "action", {"command": ["ls"]}),
        ("computer_call", "action", {"type": "click", "x": 1, "y": 2}),
        ("web_search_call", "action", {"type": "search", "query": "Elbe"}),
        ("apply_patch_call", "operation", {"type": "create_file", "diff": "+a", "path": "a"}),
    ],
)
def test_calls_of_built_in_tools_hold_what_they_do(kind: str, field: str, value: Any) -> None:
    """Their action is JSON, whole, once the item is; pieces of a command would not be."""
    item = {"type": kind, "id": "it", "status": "completed"}
    neither = {"action": None, "operation": None}
    got = decoded(
        said("output_item.added", item=item | {field: {}}),
        said("shell_call_command.delta", command_index=0, delta="ls"),
        said("apply_patch_call_operation_diff.delta", delta="+a"),
        said("output_item.done", item=item | neither | {field: value}),
    )
    [(name, _, arguments)] = got.tools()
    assert (name, json.loads(arguments)) == ("it", value)
    assert kinds(got) == [kind]
    assert got.tools(own=True) == []


def test_a_call_that_holds_nothing_has_no_arguments() -> None:
    """Fields that are null say nothing, and are not taken for arguments."""
    item = {"type": "image_generation_call", "id": "it", "action": None, "operation": None}
    got = decoded(said("output_item.done", item=item))
    assert got.tools() == [("it", None, "")]


def test_arguments_may_be_an_object() -> None:
    """Some servers send arguments as the object they are; it is written as JSON."""
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": {"a": [1]}}
    got = decoded(
        said("output_item.done", item=item), said("output_item.done", item=item | {"id": 4})
    )
    assert got.tools() == [("c", "f", '{"a":[1]}')]


def test_a_message_that_came_without_pieces_is_read_from_its_item() -> None:
    """What came neither in deltas nor as a whole text, the finished item has; else it repeats it."""
    content = [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "no"}]
    message = {"type": "message", "id": "m", "content": content}
    thoughts = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    got = decoded(
        said("output_item.done", item=thoughts),
        event({"type": "response.output_item.done", "output_index": 1, "item": message}),
    )
    assert (got.text(), got.text(ChunkKind.REASONING)) == ("a", "hm")
    assert got.text(ChunkKind.REFUSAL) == "no"
    for spoken in (
        said("output_text.delta", content_index=0, delta="a"),
        said("output_text.done", content_index=0, text="a"),
    ):
        again = decoded(spoken, said("output_item.done", item=message))
        assert again.text() == "a"
        assert again.text(ChunkKind.REFUSAL) == "no"


def test_an_error_beside_an_unknown_type_is_one() -> None:
    """An error object counts, whatever the event that it comes in is called."""
    got = decoded(
        said("output_text.delta", content_index=0, delta="a"),
        event({"type": "server_error", "error": {"code": "server_error", "message": "m"}}),
    )
    assert got.chunks == ["a"]
    assert isinstance(got.failure, ProviderError)
    assert (got.failure.message, got.failure.status) == ("m", 500)


def test_the_end_repeats_the_answer_and_is_not_read_again() -> None:
    """The terminal event is skipped but for what only it says, however much it repeats."""
    output = [{"type": "message", "content": [{"type": "output_text", "text": "a" * 10}]}]
    usage = {"input_tokens": 3, "output_tokens": 4}
    response = {
        "id": "resp_1",
        "status": "completed",
        "model": "m",
        "usage": usage,
        "output": output * 1000,
        "instructions": "x" * 100_000,
        "tools": [{}] * 1000,
    }
    got = decoded(
        said("output_text.delta", content_index=0, delta="a" * 10),
        event({"type": "response.completed", "response": response}),
    )
    assert got.chunks == ["a" * 10]
    assert got.decoder.reported == usage
    assert got.failure is None


def test_gaps_in_the_numbers_are_no_loss() -> None:
    """Sequence numbers may jump, repeat or be missing: nothing depends on them."""
    numbers = [0, 7, None, 7]
    pieces = [
        said("output_text.delta", content_index=0, delta=str(at), sequence_number=number)
        for at, number in enumerate(numbers)
    ]
    assert decoded(*pieces).text() == "0123"
