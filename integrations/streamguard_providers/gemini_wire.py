"""What Gemini's payloads look like: the strict form, and what can be taken from odd ones."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from streamguard_providers.dialects import items_in, mapping_in, number_in, raw_in, text_in, word_in

UNSET: Final = msgspec.UNSET


class PartialArg(msgspec.Struct, gc=False, rename="camel"):
    """A value, or a piece of a text, at a path in a call's arguments."""

    json_path: str | None = None
    string_value: str | msgspec.UnsetType = UNSET
    number_value: int | float | msgspec.UnsetType = UNSET
    bool_value: bool | msgspec.UnsetType = UNSET
    null_value: Any = UNSET


class FunctionCall(msgspec.Struct, gc=False, rename="camel"):
    """A call of the application's tool, or a piece of one."""

    name: str | None = None
    args: msgspec.Raw = msgspec.Raw()
    id: str | None = None
    partial_args: list[PartialArg] | None = None
    will_continue: bool | None = None


class ToolCall(msgspec.Struct, gc=False, rename="camel"):
    """A call of a tool that the provider runs itself."""

    id: str | None = None
    tool_type: str | int | None = None
    args: msgspec.Raw = msgspec.Raw()


class Part(msgspec.Struct, gc=False, rename="camel"):
    """A piece of an answer; one of its fields is set."""

    text: str | None = None
    thought: bool | None = None
    function_call: FunctionCall | None = None
    tool_call: ToolCall | None = None
    inline_data: msgspec.Raw = msgspec.Raw()
    file_data: msgspec.Raw = msgspec.Raw()
    executable_code: msgspec.Raw = msgspec.Raw()
    code_execution_result: msgspec.Raw = msgspec.Raw()


class Content(msgspec.Struct, gc=False):
    """The pieces of a candidate."""

    parts: list[Part] | None = None


class Candidate(msgspec.Struct, gc=False, rename="camel"):
    """One of the answers, or what has become of it."""

    content: Content | None = None
    # A number where the client asked for `enum-encoding=int`.
    finish_reason: str | int | None = None
    finish_message: str | None = None
    index: int | None = 0


class Feedback(msgspec.Struct, gc=False, rename="camel"):
    """What became of the prompt."""

    block_reason: str | int | None = None


class Said(msgspec.Struct, gc=False, rename="camel"):
    """One payload."""

    candidates: list[Candidate] | None = None
    usage_metadata: dict[str, Any] | None = None
    prompt_feedback: Feedback | None = None
    model_version: str | None = None
    error: Any = None


def leniently(odd: dict[str, Any]) -> Said:
    """Take from a payload with fields of unexpected types what can be taken."""
    feedback = mapping_in(odd.get("promptFeedback")) or {}
    return Said(
        candidates=[_lenient_candidate(item) for item in items_in(odd.get("candidates"))],
        usage_metadata=mapping_in(odd.get("usageMetadata")),
        prompt_feedback=Feedback(_word(feedback.get("blockReason"))),
        model_version=text_in(odd.get("modelVersion")),
        error=odd.get("error"),
    )


def _word(value: object) -> str | int | None:
    """An enum's value, as a name or a number."""
    return value if isinstance(value, int) else word_in(value)


def _lenient_candidate(value: object) -> Candidate:
    odd = mapping_in(value) or {}
    content = mapping_in(odd.get("content")) or {}
    return Candidate(
        content=Content([_lenient_part(part) for part in items_in(content.get("parts"))]),
        finish_reason=_word(odd.get("finishReason")),
        finish_message=text_in(odd.get("finishMessage")),
        index=number_in(odd.get("index")),
    )


def _lenient_part(value: object) -> Part:
    odd = mapping_in(value) or {}
    call, tool = mapping_in(odd.get("functionCall")), mapping_in(odd.get("toolCall"))
    return Part(
        text=text_in(odd.get("text")),
        thought=odd.get("thought") is True,
        function_call=None if call is None else _lenient_call(call),
        tool_call=None
        if tool is None
        else ToolCall(
            text_in(tool.get("id")), _word(tool.get("toolType")), raw_in(tool.get("args"))
        ),
        inline_data=raw_in(odd.get("inlineData")),
        file_data=raw_in(odd.get("fileData")),
        executable_code=raw_in(odd.get("executableCode")),
        code_execution_result=raw_in(odd.get("codeExecutionResult")),
    )


def _lenient_call(odd: dict[str, Any]) -> FunctionCall:
    return FunctionCall(
        name=text_in(odd.get("name")),
        args=raw_in(odd.get("args")),
        id=text_in(odd.get("id")),
        partial_args=[_lenient_piece(piece) for piece in items_in(odd.get("partialArgs"))],
        will_continue=odd.get("willContinue") is True,
    )


def _lenient_piece(value: object) -> PartialArg:
    """A piece of arguments is taken whole or not at all: one without a path cannot be placed."""
    try:
        piece = msgspec.convert(value, PartialArg)
    except msgspec.ValidationError:
        return PartialArg()
    if isinstance(piece.string_value, str):
        piece.string_value = text_in(piece.string_value) or ""
    piece.json_path = text_in(piece.json_path)
    return piece
