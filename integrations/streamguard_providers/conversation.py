"""A conversation of roles and contents, as most APIs take it, in the words of those that take another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from streamguard_core import UsageError

#: Roles of messages that say how to answer, which Anthropic and Gemini take beside the conversation.
_INSTRUCTING: Final = frozenset({"system", "developer"})
_ROLES: Final[Mapping[Any, str]] = {"user": "user", "assistant": "model", "model": "model"}


def instructions_apart(
    messages: Sequence[Any],
) -> tuple[list[Mapping[str, Any]], list[Any]]:
    """The parts of the instructing messages, each with a `text`, and the other messages.

    Raises:
        UsageError: when an instructing message holds more than text.
    """
    instructions: list[Mapping[str, Any]] = []
    others: list[Any] = []
    for message in messages:
        if isinstance(message, Mapping) and message.get("role") in _INSTRUCTING:
            instructions += _parts(message)
        else:
            others.append(message)
    return instructions, others


def as_contents(messages: Sequence[Any]) -> list[Mapping[str, Any]]:
    """Messages as Gemini takes them; what has `parts` already stays as it is.

    Raises:
        UsageError: when a message is neither the user's nor the assistant's, or holds more than text.
    """
    return [
        message if isinstance(message, Mapping) and "parts" in message else _content(message)
        for message in messages
    ]


def texts(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Parts with their text alone: Gemini refuses fields that it does not know."""
    return [{"text": part["text"]} for part in parts]


def _content(message: Any) -> dict[str, Any]:
    role = message.get("role") if isinstance(message, Mapping) else None
    if role not in _ROLES:
        raise UsageError(
            f"a message of role {role!r} was given for Gemini; system, user and assistant messages"
            " are translated: give others as `contents`"
        )
    return {"role": _ROLES[role], "parts": texts(_parts(message))}


def _parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The content of a message, as parts with a `text`.

    Raises:
        UsageError: when there is more than text.
    """
    content = message.get("content")
    if isinstance(content, str):
        return [{"text": content}]
    parts = content if isinstance(content, list | tuple) else [None]
    if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
        raise UsageError(
            f"a message of role {message['role']!r} holds something else than text, which is not"
            " translated: give it as the provider takes it"
        )
    return list(parts)
