"""The token aggregator: joins tokens to whole words, words to lines, and all of it to the answer."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

_PIECE = re.compile(r"\s+|\S+")


class TokenAggregator:
    """Aggregates one answer.

    Args:
        width: of a line, in characters; a longer word has a line of its own.
    """

    def __init__(self, width: int = 80) -> None:
        self._width = width
        self._pending = ""
        self._between = ""
        """The space that has come after the last word."""
        self._column = 0
        self._parts: list[str] = []

    @property
    def answer(self) -> str:
        """The text so far, as it came."""
        return "".join(self._parts)

    async def words(self, texts: AsyncIterator[str]) -> AsyncIterator[str]:
        """From pieces of text to whole words in lines. A part of a chain."""
        async for text in texts:
            self._parts.append(text)
            if words := self._whole(text):
                yield words
        if rest := self._lay(self._pending):
            yield rest

    def _whole(self, text: str) -> str:
        """What is whole now; the last piece may still grow."""
        pieces = _PIECE.findall(self._pending + text)
        self._pending = pieces.pop() if pieces else ""
        return "".join(map(self._lay, pieces))

    def _lay(self, piece: str) -> str:
        """Put a piece into the line, or into the next one where it does not fit."""
        if not piece or piece.isspace():
            self._between = piece
            return ""
        between = self._space(len(piece))
        self._column = len(piece) + (self._column + len(between) if "\n" not in between else 0)
        self._between = ""
        return between + piece

    def _space(self, following: int) -> str:
        """What stands before a word: a space, or the end of a line, which has no space before it."""
        if "\n" in self._between:
            return "\n" * min(2, self._between.count("\n"))
        if self._column and self._column + len(self._between) + following > self._width:
            return "\n"
        return " " if self._between and self._column else ""
