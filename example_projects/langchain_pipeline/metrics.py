"""The metrics collector: what a reader feels of a stream, measured while it runs."""

from __future__ import annotations

import math
import re
import time
from collections.abc import AsyncIterator, Callable
from statistics import median

from langchain_core.messages import BaseMessage

_WORD = re.compile(r"\w+")
_RUN = 5
"""Words that make a repetition when they come again in the same order."""


class MetricsCollector:
    """Measures one stream.

    What counts is a chunk of the model's, which most engines send per token; how many tokens it really
    were stands on the receipt.

    Args:
        clock: seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._first: float | None = None
        self._latest = self._began
        self._gaps: list[float] = []
        self._form = Form()
        self.tokens = 0

    async def watch(self, chunks: AsyncIterator[BaseMessage]) -> AsyncIterator[BaseMessage]:
        """Pass on the model's chunks, and measure them. A part of a chain."""
        async for chunk in chunks:
            if text := str(chunk.text):
                self.came(text)
            yield chunk

    def came(self, text: str) -> None:
        """A chunk with text came."""
        now = self._clock()
        if self._first is None:
            self._first = now
        else:
            self._gaps.append(now - self._latest)
        self._latest = now
        self.tokens += 1
        self._form.add(text)

    @property
    def first(self) -> float | None:
        """Seconds until the first token; None as long as there is none."""
        return None if self._first is None else self._first - self._began

    @property
    def rate(self) -> float | None:
        """Tokens per second from the first to the latest; None before there are two."""
        passed = sum(self._gaps)
        return len(self._gaps) / passed if passed > 0 else None

    @property
    def gap(self) -> float | None:
        """Seconds between two tokens, the median; None before there are two."""
        return median(self._gaps) if self._gaps else None

    @property
    def longest_gap(self) -> float | None:
        """The longest of them."""
        return max(self._gaps, default=None)

    @property
    def quality(self) -> float | None:
        """From 0 to 1: of the form alone, see `Form`; None as long as there is no text."""
        return self._form.score if self.tokens else None

    def __str__(self) -> str:
        return (
            f"{self.tokens} tokens | {_number(self.rate, '.1f')} tokens/s"
            f" | first token {_ms(self.first)}"
            f" | between tokens {_ms(self.gap)} (longest {_ms(self.longest_gap)})"
            f" | quality {_number(self.quality, '.2f')}"
        )


class Form:
    """Judges the form of a text: does it repeat itself, are there characters that are no text.

    It knows nothing of what is true or useful. Unfinished sentences are no fault while a text grows.
    """

    def __init__(self) -> None:
        self._tail = ""
        self._words: list[str] = []
        self._seen: set[tuple[str, ...]] = set()
        self._runs = 0
        self._repeated = 0
        self._characters = 0
        self._broken = 0

    def add(self, text: str) -> None:
        """The text goes on."""
        self._characters += len(text)
        self._broken += sum(not (one.isprintable() or one in "\n\r\t") for one in text)
        self._tail += text
        # The last word may still grow.
        ends = [found.end() for found in re.finditer(r"\W", self._tail)]
        if ends:
            whole, self._tail = self._tail[: ends[-1]], self._tail[ends[-1] :]
            for word in _WORD.findall(whole.lower()):
                self._word(word)

    @property
    def score(self) -> float:
        """1 is spotless; the share of repeated runs of words, and that of broken characters, are taken off."""
        repeated = self._repeated / self._runs if self._runs else 0.0
        broken = self._broken / self._characters if self._characters else 0.0
        return (1.0 - repeated) * (1.0 - broken)

    def _word(self, word: str) -> None:
        self._words = [*self._words[1 - _RUN :], word]
        if len(self._words) == _RUN:
            run = tuple(self._words)
            self._runs += 1
            self._repeated += run in self._seen
            self._seen.add(run)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"
