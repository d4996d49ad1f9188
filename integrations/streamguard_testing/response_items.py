"""The output items of OpenAI's responses, and the events that frame each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from streamguard_testing.dialects import Kind, Said, Turn

Event = tuple[str, dict[str, Any]]

_PREFIXES: Final[Mapping[Kind, str]] = {
    Kind.TEXT: "msg",
    Kind.REASONING: "rs",
    Kind.ARGUMENTS: "fc",
}


class Item:
    """One output item: a message, a summary of reasoning, or a call of a function."""

    def __init__(self, kind: Kind, turn: Turn, *, index: int) -> None:
        self.kind: Final = kind
        self.status = "in_progress"
        self._turn = turn
        self._index = index
        self._id = f"{_PREFIXES[kind]}_{turn.request_id}"
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """What has been added so far."""
        return "".join(self._parts)

    def begin(self) -> Iterator[Event]:
        """Yield the events that open it."""
        yield "response.output_item.added", self._placed(item=self._as_dict(parts=[]))
        match self.kind:
            case Kind.TEXT:
                yield "response.content_part.added", self._in_text(part=self._part())
            case Kind.REASONING:
                yield "response.reasoning_summary_part.added", self._in_summary(part=self._part())
            case Kind.ARGUMENTS:
                pass

    def add(self, token: str) -> Iterator[Event]:
        """Yield the event of a token."""
        self._parts.append(token)
        match self.kind:
            case Kind.TEXT:
                yield "response.output_text.delta", self._in_text(delta=token, logprobs=[])
            case Kind.REASONING:
                yield "response.reasoning_summary_text.delta", self._in_summary(delta=token)
            case Kind.ARGUMENTS:
                yield "response.function_call_arguments.delta", self._within(delta=token)

    def end(self, status: str) -> Iterator[Event]:
        """Yield the events that close it."""
        self.status = status
        text = self.text
        match self.kind:
            case Kind.TEXT:
                yield "response.output_text.done", self._in_text(text=text, logprobs=[])
                yield "response.content_part.done", self._in_text(part=self._part())
            case Kind.REASONING:
                yield "response.reasoning_summary_text.done", self._in_summary(text=text)
                yield "response.reasoning_summary_part.done", self._in_summary(part=self._part())
            case Kind.ARGUMENTS:
                name = self._call_name()
                yield (
                    "response.function_call_arguments.done",
                    self._within(arguments=text, name=name),
                )
        yield "response.output_item.done", self._placed(item=self.as_dict())

    def as_dict(self) -> dict[str, object]:
        """Return the item as it is now."""
        return self._as_dict(parts=[self._part()])

    def _as_dict(self, parts: list[dict[str, object]]) -> dict[str, object]:
        match self.kind:
            case Kind.TEXT:
                return self._base("message") | {"role": "assistant", "content": parts}
            case Kind.REASONING:
                return {"id": self._id, "type": "reasoning", "summary": parts}
            case Kind.ARGUMENTS:
                call_id = f"call_{self._turn.request_id}"
                return self._base("function_call") | {
                    "arguments": self.text,
                    "call_id": call_id,
                    "name": self._call_name(),
                }

    def _base(self, kind: str) -> dict[str, object]:
        return {"id": self._id, "type": kind, "status": self.status}

    def _part(self) -> dict[str, object]:
        if self.kind is Kind.REASONING:
            return {"type": "summary_text", "text": self.text}
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}

    def _call_name(self) -> str:
        assert self._turn.call is not None
        return self._turn.call.name

    def _placed(self, **rest: object) -> dict[str, Any]:
        return {"output_index": self._index, **rest}

    def _within(self, **rest: object) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": self._index, **rest}

    def _in_text(self, **rest: object) -> dict[str, Any]:
        return self._within(content_index=0, **rest)

    def _in_summary(self, **rest: object) -> dict[str, Any]:
        return self._within(summary_index=0, **rest)


def items_of(said: Said, reason: str, turn: Turn) -> list[dict[str, object]]:
    """Return the output items of an answer in one piece."""
    texts = {
        Kind.REASONING: said.reasoning,
        Kind.TEXT: said.text,
        Kind.ARGUMENTS: said.arguments,
    }
    items: list[Item] = []
    for kind, text in texts.items():
        if text:
            items.append(Item(kind, turn, index=len(items)))
            _fill(items[-1], text, "incomplete" if reason == "length" else "completed")
    return [item.as_dict() for item in items]


def _fill(item: Item, text: str, status: str) -> None:
    for _ in (*item.add(text), *item.end(status)):
        pass
