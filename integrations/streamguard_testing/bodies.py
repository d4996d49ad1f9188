"""Bodies: JSON in and out, and the fields of requests, read one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class BadRequest(ValueError):
    """The body of a request is not what its dialect asks for."""


def encode(value: object) -> bytes:
    """Return compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def decode(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object that a body is.

    Raises:
        BadRequest: When it is none.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value


def string(body: Mapping[str, Any], name: str) -> str:
    """Return a field that must be a text and must be there."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"{name!r} must be a text that is not empty")
    return value


def integer(body: Mapping[str, Any], name: str) -> int | None:
    """Return a field that must be an integer if it is there."""
    value = body.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise BadRequest(f"{name!r} must be an integer")
    return value


def limit(body: Mapping[str, Any], name: str) -> int | None:
    """Return a limit of tokens that must be 1 or more if it is there."""
    value = integer(body, name)
    if value is not None and value < 1:
        raise BadRequest(f"{name!r} must be 1 or more")
    return value


def flag(body: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """Return a field that must be true or false if it is there."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"{name!r} must be true or false")
    return default if value is None else value


def mapping(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a field that must be an object if it is there."""
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise BadRequest(f"{name!r} must be an object")
    return value or {}


def objects(body: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return a field that must be a list of objects if it is there."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRequest(f"{name!r} must be a list of objects")
    return value


def text_of(content: object, name: str = "content") -> str:
    """Return the text of a message: a text, or a list of parts of which some are texts."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, list):
        raise BadRequest(f"the {name!r} of a message must be a text or a list of parts")
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))
