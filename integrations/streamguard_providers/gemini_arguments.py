"""A function call's arguments from the pieces in which Gemini streams them: values at JSON paths."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from streamguard_providers.framing import MAX_EVENT_BYTES

#: One step of a path of RFC 9535: `.name`, `[0]`, `['name']`, `["name"]`.
_STEP: Final = re.compile(
    r"\.([^.\[\]]++)|\[(\d{1,9})\]|\[(\"(?:[^\"\\]++|\\.)*+\"|'(?:[^'\\]++|\\.)*+')\]"
)
_MAX_STEPS: Final = 64
#: Items that may be left out of arrays in one call: Gemini sends no piece for an empty object.
_MAX_GAPS: Final = 1000

Scalar = str | int | float | bool | None


class GeminiArguments:
    """Puts the arguments of one call together.

    Arrays are kept as dicts by index until the end, texts as lists of their pieces.

    Args:
        given: arguments that came whole, with the call's name.

    Example:
        >>> arguments = GeminiArguments()
        >>> arguments.put("$.to[0].city", "Bos"), arguments.put("$.to[0].city", "ton")
        (True, True)
        >>> arguments.text()
        '{"to":[{"city":"Boston"}]}'
    """

    def __init__(self, given: dict[str, Any] | None = None) -> None:
        self._given = given or {}
        self._root: dict[str | int, Any] = {}
        self._size = 0
        self._gaps = _MAX_GAPS

    def put(self, path: str | None, value: Scalar) -> bool:
        """Take a piece in; texts at one path are joined. False when it cannot be read or is too much."""
        self._size += len(path or "") + (len(value) if isinstance(value, str) else 8)
        steps = json_path(path or "") if self._size <= MAX_EVENT_BYTES else None
        if not steps:
            return False
        node = self._root
        for step in steps[:-1]:
            if not self._fits(node, step):
                return False
            inner = node.get(step)
            if not isinstance(inner, dict):
                inner = node[step] = {}
            node = inner
        last = steps[-1]
        if not self._fits(node, last):
            return False
        if not isinstance(value, str):
            node[last] = value
        elif isinstance(node.get(last), list):
            node[last].append(value)
        else:
            node[last] = [value]
        return True

    def text(self) -> str:
        """The arguments as JSON text."""
        return msgspec.json.encode({**self._given, **_plain(self._root)}).decode()

    def _fits(self, node: dict[str | int, Any], step: str | int) -> bool:
        """Whether a step goes on where the others were: far jumps would make huge arrays."""
        if isinstance(step, str) or step in node:
            return True
        self._gaps -= max(0, step - len(node))
        return self._gaps >= 0


def json_path(path: str) -> list[str | int] | None:
    """The steps of a path; None when it cannot be read."""
    at = 1 if path.startswith("$") else 0
    steps: list[str | int] = []
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None or len(steps) == _MAX_STEPS:
            return None
        name, index, quoted = found.groups()
        if index is not None:
            steps.append(int(index))
        else:
            step = name if quoted is None else _unquoted(quoted)
            if step is None:
                return None
            steps.append(step)
        at = found.end()
    return steps


def _unquoted(quoted: str) -> str | None:
    """A quoted name; in single quotes the escapes are those of JSON, but for the quotes."""
    inner = quoted[1:-1]
    if quoted.startswith("'"):
        inner = inner.replace("\\'", "'").replace('"', '\\"')
    try:
        return msgspec.json.decode(f'"{inner}"', type=str)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None


def _plain(node: Any) -> Any:
    if isinstance(node, list):
        return "".join(node)
    if not isinstance(node, dict):
        return node
    if node and all(isinstance(step, int) for step in node):
        return [_plain(node.get(index)) for index in range(max(node) + 1)]
    return {str(step): _plain(inner) for step, inner in node.items()}
