"""What the conformance checks find, and the error that lists it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from streamguard_core.errors import StreamGuardError


class Violation(msgspec.Struct, frozen=True):
    """One way in which a contract was broken."""

    rule: str
    """The rule, in the words of the contract."""
    attempted: str
    """What was tried, and in which state."""
    advice: str
    """What to do about it."""

    def __str__(self) -> str:
        return f"{self.rule}: {self.attempted}. {self.advice}"


class ConformanceReport(msgspec.Struct, frozen=True):
    """What was checked."""

    subject: str
    runs: int
    chunks: int
    """Chunks of the longest run."""
    raised: tuple[str, ...] = ()
    """Types of the errors that came out; raising is allowed."""


class ConformanceError(StreamGuardError, AssertionError):
    """A producer or an adapter breaks its contract; `violations` says how, the message lists it."""

    def __init__(self, subject: str, runs: int, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        lines = "\n".join(f"- {violation}" for violation in self.violations)
        super().__init__(f"{subject} breaks its contract (found in {runs} runs):\n{lines}")


class Findings:
    """Collects violations; each rule is reported once, with the first run that broke it."""

    def __init__(self) -> None:
        self.runs = 0
        self.chunks = 0
        self.raised: dict[str, None] = {}
        self._violations: dict[str, Violation] = {}

    def add(self, rule: str, attempted: str, advice: str) -> None:
        """Note a violation."""
        self._violations.setdefault(rule, Violation(rule, attempted, advice))

    def note_error(self, error: BaseException) -> None:
        """Note an error that came out, by its type: its text might hold content."""
        self.raised.setdefault(type(error).__name__)

    def conclude(self, subject: str) -> ConformanceReport:
        """The report.

        Raises:
            ConformanceError: when anything was violated.
        """
        if self._violations:
            raise ConformanceError(subject, self.runs, self._violations.values())
        return ConformanceReport(subject, self.runs, self.chunks, tuple(self.raised))
