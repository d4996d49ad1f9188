"""What chat completions look like: the strict form, and what can be taken from odd ones."""

from __future__ import annotations

from typing import Any

import msgspec

from streamguard_providers.dialects import items_in, mapping_in, number_in, text_in, word_in


class Function(msgspec.Struct, gc=False):
    """A function that is called, or a piece of its arguments."""

    name: str | None = None
    # Text in pieces as documented; null, or one whole object, in the wild.
    arguments: Any = None


class Custom(msgspec.Struct, gc=False):
    """A custom tool that is called; it takes any text."""

    name: str | None = None
    input: Any = None


class ToolCall(msgspec.Struct, gc=False):
    """A tool call, or a piece of one."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None
    custom: Custom | None = None


class Delta(msgspec.Struct, gc=False):
    """What a choice goes on with; or the whole of it."""

    # Mistral's and Databricks' reasoning models send a list of parts.
    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[Any] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None


class Choice(msgspec.Struct, gc=False):
    """One choice in one payload."""

    index: int | None = 0
    delta: Delta | None = None
    # Servers that ignore `stream` answer with one whole message; some repeat it beside the deltas.
    message: Delta | None = None
    # Of text completions; a repetition of the delta's text in chat completions of some vendors.
    text: str | None = None
    finish_reason: str | None = None
    # Moonshot counts here, OpenRouter may fail here.
    usage: dict[str, Any] | None = None
    error: Any = None


class Said(msgspec.Struct, gc=False):
    """One payload."""

    choices: list[Choice] | None = None
    usage: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    # Groq's corner, for usage and for the error that stopped a stream early.
    x_groq: dict[str, Any] | None = None
    error: Any = None
    model: str | None = None
    # A flat error has these instead of choices.
    object: str | None = None
    type: str | None = None


def leniently(odd: dict[str, Any]) -> Said:
    """Take from a payload with fields of unexpected types what can be taken."""
    choices = [_lenient_choice(choice) for choice in items_in(odd.get("choices"))]
    usage = odd.get("usage", msgspec.UNSET)
    return Said(
        choices=[choice for choice in choices if choice is not None],
        usage=usage if usage is msgspec.UNSET else mapping_in(usage),
        x_groq=mapping_in(odd.get("x_groq")),
        error=odd.get("error"),
        model=text_in(odd.get("model")),
        object=text_in(odd.get("object")),
        type=text_in(odd.get("type")),
    )


def _lenient_choice(value: object) -> Choice | None:
    odd = mapping_in(value)
    if odd is None:
        return None
    return Choice(
        index=number_in(odd.get("index")),
        delta=_lenient_delta(odd.get("delta")),
        message=_lenient_delta(odd.get("message")),
        text=text_in(odd.get("text")),
        finish_reason=word_in(odd.get("finish_reason")),
        usage=mapping_in(odd.get("usage")),
        error=odd.get("error"),
    )


def _lenient_delta(value: object) -> Delta | None:
    odd = mapping_in(value)
    if odd is None:
        return None
    content = odd.get("content")
    calls = [_lenient_call(call) for call in items_in(odd.get("tool_calls"))]
    return Delta(
        content=content if isinstance(content, list) else text_in(content),
        reasoning_content=text_in(odd.get("reasoning_content")),
        reasoning=text_in(odd.get("reasoning")),
        reasoning_details=items_in(odd.get("reasoning_details")),
        refusal=text_in(odd.get("refusal")),
        tool_calls=[call for call in calls if call is not None],
        function_call=_lenient_function(odd.get("function_call")),
    )


def _lenient_call(value: object) -> ToolCall | None:
    odd = mapping_in(value)
    if odd is None:
        return None
    custom = mapping_in(odd.get("custom"))
    return ToolCall(
        index=number_in(odd.get("index")),
        id=text_in(odd.get("id")),
        function=_lenient_function(odd.get("function")),
        custom=None
        if custom is None
        else Custom(name=text_in(custom.get("name")), input=text_in(custom.get("input"))),
    )


def _lenient_function(value: object) -> Function | None:
    odd = mapping_in(value)
    if odd is None:
        return None
    return Function(name=text_in(odd.get("name")), arguments=odd.get("arguments"))
