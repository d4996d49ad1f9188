"""Tools: which of the tools that a request offers would be called, and with what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from streamguard_testing.bodies import BadRequest, mapping, objects, string
from streamguard_testing.dialects import Tool

#: The piece of the arguments that makes them whole; within a text it would be escaped.
LAST_PIECE = '"}'


def choose(
    offered: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    name: object = None,
    forced: bool = False,
    streamed: bool = False,
) -> Tool:
    """Choose one of the tools that are offered: the first one, unless another is named.

    Args:
        offered: Names with the schemas of their arguments, one at least.
        name: The one that must be called.
        forced: Whether one must be called.
        streamed: Whether its arguments may come in pieces where that is not usual.

    Raises:
        BadRequest: When the one that is named is not offered.
    """
    schemas = dict(reversed(offered))
    wanted = offered[0][0] if name is None else name
    if not isinstance(wanted, str) or wanted not in schemas:
        raise BadRequest("the tool that must be called is none of 'tools'")
    return Tool(
        name=wanted,
        argument=_argument(schemas[wanted]),
        forced=forced or name is not None,
        streamed=streamed,
    )


def openai_tool(body: Mapping[str, Any], *, nested: bool) -> Tool | None:
    """Return the tool that a request in OpenAI's manner would call.

    Args:
        body: The request.
        nested: Whether name and parameters stand within `function`, as in chat completions.
    """
    tools = objects(body, "tools")
    if nested:
        tools = [mapping(tool, "function") for tool in tools]
    offered = [
        (string(tool, "name"), mapping(tool, "parameters"))
        for tool in tools
        # Of the tools that the provider itself runs, none is imitated.
        if nested or tool.get("type") == "function"
    ]
    choice = body.get("tool_choice")
    if not offered or choice == "none":
        return None
    if not isinstance(choice, dict):
        return choose(offered, forced=choice == "required")
    named = mapping(choice, "function") if nested else choice
    return choose(offered, name=string(named, "name"))


def pieces(tool: Tool, tokens: Iterator[str], count: int) -> Iterator[str]:
    """Yield the arguments of a call in pieces which, joined, are one JSON object.

    Args:
        tool: What is called.
        tokens: The text that its argument gets.
        count: How many pieces, two at least.
    """
    yield "{" + json.dumps(tool.argument) + ':"'
    for token in islice(tokens, max(0, count - 2)):
        yield json.dumps(token, ensure_ascii=False)[1:-1]
    yield LAST_PIECE


def _argument(schema: Mapping[str, Any]) -> str:
    """Return the first argument that is a text."""
    for name, described in mapping(schema, "properties").items():
        if isinstance(described, dict) and str(described.get("type")).lower() == "string":
            return name
    return "text"
