"""Guardrails in their simplest honest form: rules that look at the text before its reader does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

HOLD = 64
"""Characters that are held back: what a rule finds within so many was not shown, not even its beginning."""

_RULES = {
    "e-mail": r"\b[\w.+-]{1,64}@[\w-]{1,63}\.[\w.-]{1,63}\b",
    "card number": r"\b\d(?:[ -]?\d){12,18}\b",
    "secret key": r"\b(?:sk|pk|ghp|xoxb)[-_][\w-]{16,64}\b",
}


class Guardrails:
    """Rules for one program: what must stand neither in a question nor in an answer.

    Args:
        phrases: forbidden as well, as whole words and in any case.
    """

    def __init__(self, phrases: Iterable[str] = ()) -> None:
        rules = {name: re.compile(rule) for name, rule in _RULES.items()}
        for phrase in phrases:
            words = r"\s+".join(map(re.escape, phrase.split()))
            rules[phrase] = re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
        self._rules = rules

    def forbids(self, text: str) -> str | None:
        """The name of a rule that a whole text breaks."""
        return next((name for name, rule in self._rules.items() if rule.search(text)), None)

    def window(self) -> Window:
        """What looks at one answer while it comes."""
        return Window(self._rules)


class Window:
    """One answer while it comes: the end of it is held back until what follows is known.

    Args:
        rules: by name.
    """

    def __init__(self, rules: dict[str, re.Pattern[str]]) -> None:
        self._rules = rules
        self._text = ""
        self._shown = 0
        """Characters of `_text` that were released; the last of them stays, for rules look at what is before."""
        self.broken: str | None = None
        """The name of the rule that was broken."""

    def take(self, text: str) -> str:
        """Take what has come, and return what may be shown: of what breaks a rule nothing, and nothing after it."""
        self._text += text
        return self._release(len(self._text) - HOLD, whole=False)

    def rest(self) -> str:
        """The answer is whole: what was held back, as far as it may be shown."""
        return self._release(len(self._text), whole=True)

    def _release(self, until: int, *, whole: bool) -> str:
        for name, found in self._found():
            # What may still grow is kept until it is known what it grows into.
            settled = whole or found.end() < len(self._text)
            if settled and self.broken is None:
                self.broken, until = name, found.start()
            until = min(until, found.start())
        until = max(until, self._shown)
        released = self._text[self._shown : until]
        kept = max(0, until - 1)
        self._text, self._shown = self._text[kept:], until - kept
        return released

    def _found(self) -> Iterator[tuple[str, re.Match[str]]]:
        for name, rule in self._rules.items():
            found = rule.search(self._text, self._shown)
            if found is not None:
                yield name, found
