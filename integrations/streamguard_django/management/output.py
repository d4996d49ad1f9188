"""What the commands print with: text that cannot steer a terminal, and plain tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SHOWN: Final = 50


def printable(text: object) -> str:
    """Text for a terminal: what came over a network may hold sequences that steer it."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in str(text))


def table(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """Columns of equal width, two spaces apart."""
    cells = [[printable(cell) for cell in line] for line in (head, *lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def listed(title: str, lines: Sequence[object], count: int | None = None) -> str:
    """A titled list, the first fifty; nothing when it is empty."""
    if not lines:
        return ""
    more = (len(lines) if count is None else count) - SHOWN
    shown = [f"  - {printable(line)}" for line in lines[:SHOWN]]
    if more > 0:
        shown.append(f"  and {more} more; --json tells more")
    return "\n".join([f"{title}:", *shown, ""])
