"""How a request is made to go on after a text: the assistant's message last, as each server wants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from msgspec.structs import replace

from streamguard_core import AnyChunk, Chunk, ChunkKind, UsageError


class Continuation(StrEnum):
    """How a server that speaks OpenAI's chat completions is asked to go on after a text."""

    ASSISTANT = "assistant"
    """An assistant's message is last, and that is all (llama.cpp, Ollama, LMDeploy)."""
    FINAL_MESSAGE = "continue_final_message"
    """With `continue_final_message` and without a generation prompt (vLLM, SGLang, Aphrodite)."""
    PREFIX = "prefix"
    """With `prefix: true` in that message (Mistral, DeepSeek's beta API)."""
    PARTIAL = "partial"
    """With `partial: true` in that message (Moonshot, Alibaba)."""


_MARKED: Final = (Continuation.PREFIX, Continuation.PARTIAL)


def continuation(wanted: Continuation | str | bool | None) -> Continuation | None:
    """Read the keyword `continues` of a producer.

    Raises:
        UsageError: when it is none of the ways.
    """
    if wanted is None or wanted is False:
        return None
    if wanted is True:
        return Continuation.ASSISTANT
    try:
        return Continuation(wanted)
    except ValueError:
        ways = ", ".join(repr(str(way)) for way in Continuation)
        raise UsageError(f"continues={wanted!r} was given; it is one of {ways}, or False") from None


def go_on(body: Mapping[str, Any], prefix: str, way: Continuation) -> dict[str, Any]:
    """The body of a chat whose answer goes on after `prefix`."""
    messages = with_prefix(body["messages"], prefix)
    if way in _MARKED:
        messages[-1] = {**messages[-1], str(way): True}
    more: dict[str, Any] = {}
    if way is Continuation.FINAL_MESSAGE:
        more = {"continue_final_message": True, "add_generation_prompt": False}
    return {**body, "messages": messages, **more}


def with_prefix(
    messages: Sequence[Mapping[str, Any]], prefix: str, *, role: str = "assistant"
) -> list[Any]:
    """A conversation that ends in the assistant's `prefix`.

    One that ends in an assistant's message already gets the prefix behind that: two in a row would
    be two turns.
    """
    *before, last = messages
    if last.get("role") != role:
        return [*messages, {"role": role, "content": prefix}]
    content = last.get("content") or ""
    if isinstance(content, str):
        return [*before, {**last, "content": content + prefix}]
    return [*before, {**last, "content": [*content, {"type": "text", "text": prefix}]}]


def with_value(body: Mapping[str, Any], path: Sequence[str], value: object) -> dict[str, Any]:
    """A copy of a body with another value at a path of names."""
    name, *rest = path
    inner = body.get(name) or {}
    return {**body, name: with_value(inner, rest, value) if rest else value}


def without_blanks(batch: Sequence[AnyChunk]) -> tuple[list[AnyChunk], bool]:
    """The first chunks of an answer, without the blanks its text begins with.

    Returns:
        What is left, and whether the text has not begun yet.
    """
    rest: list[AnyChunk] = []
    for at, chunk in enumerate(batch):
        if isinstance(chunk, str):
            text = chunk.lstrip()
            if text:
                return [*rest, text, *batch[at + 1 :]], False
        elif isinstance(chunk, Chunk) and chunk.kind is ChunkKind.TEXT:
            text = chunk.text.lstrip()
            if text:
                return [*rest, replace(chunk, text=text), *batch[at + 1 :]], False
        else:
            rest.append(chunk)
    return rest, True
