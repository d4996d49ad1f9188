"""Tool calls in Anthropic's messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamguard_core import Chunk
from streamguard_providers import ToolFragment

from .anthropic_events import END, TOOL, arguments, block, decoded, start, stop, stop_block


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


def test_open_blocks_do_not_disturb_each_other() -> None:
    """Should blocks ever interleave, each call gets its own pieces."""
    got = decoded(
        start(),
        block(0, "tool_use", **TOOL),
        block(1, "tool_use", id="b", name="g"),
        arguments("[1]", 1),
        arguments('{"a":', 0),
        stop_block(1),
        block(2, text=""),
        arguments("1}", 0),
        stop_block(0),
        stop("tool_use", output_tokens=9),
        END,
    )
    assert got.tools() == [("toolu_1", "find", '{"a":1}'), ("b", "g", "[1]")]


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
