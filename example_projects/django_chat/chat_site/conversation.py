"""What the page sends: all turns so far, the reader's last."""

from __future__ import annotations

import json
from typing import Any

MOST_TURNS = 100
LONGEST_TURN = 20_000
"""Characters."""


def conversation(body: bytes) -> list[dict[str, str]]:
    """The turns in the body of a request.

    Raises:
        ValueError: when they are not what the page sends; says what is wrong.
    """
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the body is no JSON") from None
    messages = given.get("messages") if isinstance(given, dict) else None
    if not isinstance(messages, list) or not 0 < len(messages) <= MOST_TURNS:
        raise ValueError(f"messages is no list of 1 to {MOST_TURNS} turns")
    return [_turn(message) for message in messages]


def _turn(message: Any) -> dict[str, str]:
    turn = message if isinstance(message, dict) else {}
    role, content = turn.get("role"), turn.get("content")
    if role not in ("user", "assistant"):
        raise ValueError("the role of a turn is user or assistant")
    if not isinstance(content, str) or len(content) > LONGEST_TURN:
        raise ValueError(f"the content of a turn is a text of at most {LONGEST_TURN} characters")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise ValueError(
            "the content of a turn is no text: half of a character stands alone"
        ) from None
    return {"role": role, "content": content}
