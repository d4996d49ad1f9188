"""What a verification found, as plain frozen data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Final

NOT_CHECKED: Final = (
    "whether the newest records or writers are missing: there is no checkpoint from elsewhere",
    "who wrote the records: nothing is signed, and whoever can write all files can make them anew",
    "whether the records were true when they were made",
)


class WriterState(str, Enum):
    """How far a writer has come."""

    LIVE = "live"
    """Its process holds its lock."""
    CLOSED = "closed"
    """It ended in order: its last record says so."""
    RECOVERED = "recovered"
    """Its process was killed, and a later writer noted where it ended."""
    UNRECOVERED = "unrecovered"
    """It has no end: its process was killed and nobody started since, or its tail was cut off."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that no software of ours writes: somebody or something changed it."""

    writer: str
    seq: int | None
    """None for what concerns the whole file."""
    what: str

    def __str__(self) -> str:
        where = f"writer {self.writer}"
        return f"{where}: {self.what}" if self.seq is None else f"{where} #{self.seq}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterReport:
    """One writer's chain."""

    writer: str
    state: WriterState
    records: int
    head: str | None
    """Hash of its last record: keep it elsewhere, and compare it later."""
    sound: bool
    """True when no problem was found in its file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What `verify` found.

    Invariant: `ok` only if every record was read and understood, and nothing is wrong.
    """

    path: str
    log: str
    writers: tuple[WriterReport, ...]
    streams: int
    """Streams with an OPEN or a CLOSE."""
    open_streams: int
    """Of these: without a receipt yet."""
    problems: tuple[Problem, ...]
    """Evidence that something was changed or lost."""
    unknown: tuple[str, ...]
    """What newer software wrote, and this one does not understand."""
    incomplete: tuple[str, ...]
    """What is not finished: the next start of the ledger will see to it."""
    not_checked: tuple[str, ...] = NOT_CHECKED
    """What this verification cannot know."""

    @property
    def ok(self) -> bool:
        """True when nothing is wrong, unknown or incomplete."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """0 ok, 1 evidence of tampering or damage, 3 incomplete, 4 written by newer software."""
        if self.problems:
            return 1
        if self.unknown:
            return 4
        return 3 if self.incomplete else 0

    def to_data(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return asdict(self) | {"ok": self.ok, "exit_code": self.exit_code}
