"""What the events of the responses API look like: the strict form, and what can be taken from odd ones."""

from __future__ import annotations

from typing import Any

import msgspec

from streamguard_providers.dialects import mapping_in, number_in, raw_in, text_in


class Response(msgspec.Struct, gc=False):
    """The response that an event is about."""

    # The terminal event repeats the whole answer and its request: all but these is skipped.
    id: str | None = None
    status: str | None = None
    model: str | None = None
    usage: dict[str, Any] | None = None
    error: Any = None
    incomplete_details: dict[str, Any] | None = None


class Item(msgspec.Struct, gc=False):
    """An output item: a message, thoughts, or a call."""

    type: str | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: Any = None
    # Of a custom tool, which takes any text; of the code interpreter; of other tools of the provider.
    input: Any = None
    code: Any = None
    action: msgspec.Raw = msgspec.Raw()
    operation: msgspec.Raw = msgspec.Raw()
    # Mostly a repetition, so it is not looked into without need.
    content: msgspec.Raw = msgspec.Raw()
    summary: msgspec.Raw = msgspec.Raw()


class Said(msgspec.Struct, gc=False):
    """One event."""

    type: str | None = None
    # A text where we look at it; events that we do not know have others.
    delta: Any = None
    output_index: int | None = None
    content_index: int | None = None
    summary_index: int | None = None
    item_id: str | None = None
    item: Item | None = None
    response: Response | None = None
    text: Any = None
    refusal: Any = None
    arguments: Any = None
    input: Any = None
    code: Any = None
    error: Any = None
    object: str | None = None


def leniently(odd: dict[str, Any]) -> Said:
    """Take from a payload with fields of unexpected types what can be taken."""
    response, item = mapping_in(odd.get("response")), mapping_in(odd.get("item"))
    texts = {
        name: text_in(odd.get(name))
        for name in ("type", "delta", "item_id", "text", "refusal", "arguments", "input", "object")
    }
    return Said(
        **texts,
        output_index=number_in(odd.get("output_index")),
        content_index=number_in(odd.get("content_index")),
        summary_index=number_in(odd.get("summary_index")),
        item=None if item is None else lenient_item(item),
        response=None if response is None else lenient_response(response),
        code=text_in(odd.get("code")),
        error=odd.get("error"),
    )


def lenient_item(odd: dict[str, Any]) -> Item:
    """Take from an item with fields of unexpected types what can be taken."""
    return Item(
        type=text_in(odd.get("type")),
        id=text_in(odd.get("id")),
        call_id=text_in(odd.get("call_id")),
        name=text_in(odd.get("name")),
        arguments=odd.get("arguments"),
        input=odd.get("input"),
        code=odd.get("code"),
        action=raw_in(odd.get("action")),
        operation=raw_in(odd.get("operation")),
        content=raw_in(odd.get("content")),
        summary=raw_in(odd.get("summary")),
    )


def lenient_response(odd: dict[str, Any]) -> Response:
    """Take from a response with fields of unexpected types what can be taken."""
    return Response(
        id=text_in(odd.get("id")),
        status=text_in(odd.get("status")),
        model=text_in(odd.get("model")),
        usage=mapping_in(odd.get("usage")),
        error=odd.get("error"),
        incomplete_details=mapping_in(odd.get("incomplete_details")),
    )
