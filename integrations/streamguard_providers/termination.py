"""What closing a stream saves at each provider: a versioned table of data, with its evidence, to look rows up in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import msgspec

from streamguard_core import OnClose, Termination, UsageError

OWN: Final = "own"
"""The version of a table of one's own that gives none."""


class UsageArrives(StrEnum):
    """When a provider says what a stream has used."""

    EACH_CHUNK = "each_chunk"
    """A running count, with every chunk."""
    FINAL_CHUNK = "final_chunk"
    """In a chunk after the last text."""
    TERMINAL_EVENT = "terminal_event"
    """In the event that ends the stream."""
    START_AND_DELTA = "start_and_delta"
    """The input at the start, the output near the end."""
    NEVER = "never"


class ExplicitCancel(StrEnum):
    """Whether a generation can be ended otherwise than by closing its stream."""

    NONE = "none"
    BACKGROUND = "background"
    """Of a generation in the background, by its id."""


class LateLookup(StrEnum):
    """Whether the usage can be had later."""

    NONE = "none"
    BY_ID = "by_id"
    """Asked for by the call's id; `look_up()` does."""


class Grade(StrEnum):
    """What evidence is worth, best first."""

    PRIMARY = "P"
    """The provider's own text, or source code."""
    ISSUE = "I"
    """A thread of an issue or pull request."""
    MEASURED = "M"
    """Measured, on one machine."""
    SECONDARY = "S"
    """Said by somebody else, not verified."""
    KNOWLEDGE = "K"
    """General knowledge."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a row says what it says."""

    grade: Grade
    text: str
    link: str | None = None


class TerminationRow(Termination, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of the table: what the core decides by, and what else is known.

    Args:
        stops_generation: whether the model stops as well; None where nobody knows.
        usage: when the usage arrives; None where nobody knows.
        marker: how the provider says that the stream is complete.
        cancel: whether there is another way to end a generation.
        lookup: whether the usage can be had later.
        note: what else to know.
        evidence: why all this is believed.
    """

    stops_generation: bool | None = None
    usage: UsageArrives | None = None
    marker: str | None = None
    cancel: ExplicitCancel = ExplicitCancel.NONE
    lookup: LateLookup = LateLookup.NONE
    note: str | None = None
    evidence: tuple[Evidence, ...] = ()

    @property
    def specificity(self) -> tuple[bool, int, bool, int, date, str, str]:
        """The larger, the more a row is about the call in hand: by provider, model, route, then day.

        What is left is decided by the patterns' text, so that the order of rows means nothing.
        """
        literal = [len(re.sub(r"[*?]|\[.*?\]", "", text)) for text in (self.model, self.route)]
        return (
            self.provider != "*",
            literal[0],
            not _is_pattern(self.model),
            literal[1],
            self.valid_from or date.min,
            self.model,
            self.route,
        )


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file of a table holds."""

    version: str = OWN
    providers: dict[str, tuple[str, ...]] = {}
    rows: tuple[TerminationRow, ...]


class TerminationTable:
    """Rows by provider, model, route and day. Immutable; the same question has the same answer.

    Facts about bills are hypotheses until they are held against an invoice: each row has its
    evidence, and rows of your own come before those that are shipped.

    Example:
        >>> from datetime import date
        >>> table = TerminationTable.shipped()
        >>> str(table.row("aws-bedrock", "anthropic.claude", date(2026, 11, 28)).on_close)
        'bills_full'
        >>> mine = table.overridden_by([{"provider": "openai", "model": "gpt-5*", "on_close": "bills_full"}])
        >>> print(mine.row("openai", "gpt-5-nano", date(2026, 11, 28)))
        openai gpt-5* bills_full (table own)
        >>> str(mine.row("openai", "o3", date(2026, 11, 28)).on_close)
        'stops_billing'
    """

    __slots__ = ("layers", "providers", "rows", "version")

    def __init__(
        self,
        rows: Iterable[TerminationRow],
        *,
        version: str = OWN,
        providers: Mapping[str, Iterable[str]] | None = None,
        behind: TerminationTable | None = None,
    ) -> None:
        """Build a table of rows; see `from_data` for plain data.

        Args:
            rows: the rows.
            version: names the table on receipts.
            providers: other names of providers, and patterns of their hosts.
            behind: the table that is asked where none of these rows holds.

        Raises:
            UsageError: when two rows say when they hold for the same calls, from the same day.
        """
        self.version = version
        self.providers = {name.lower(): tuple(others) for name, others in (providers or {}).items()}
        self.layers: tuple[TerminationTable, ...] = (self, *(behind.layers if behind else ()))
        """This table, then those behind it, in the order in which they are asked."""
        self.rows = tuple(self._placed(row) for row in rows)
        _check_rows(self.rows, version)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.version}, {len(self.rows)} rows>"

    @classmethod
    def shipped(cls) -> TerminationTable:
        """The table that comes with this package."""
        return _shipped()

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a table from a JSON file, in the form of the shipped one.

        Raises:
            UsageError: when it cannot be read, or says something that no row can; with where.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise UsageError(
                f"reading the table of terminations {path} failed: {error.strerror}"
            ) from error
        return cls._decoded(content, str(path))

    @classmethod
    def from_data(
        cls, data: Mapping[str, Any] | Iterable[TerminationRow | Mapping[str, Any]]
    ) -> Self:
        """Build a table of plain data: an object as in the file, or a list of rows.

        Raises:
            UsageError: when it says something that no row can; with where.
        """
        held = data if isinstance(data, Mapping) else {"rows": list(data)}
        try:
            # By way of JSON: what may be given here is what a file may hold.
            content = msgspec.json.encode(held)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"a table of terminations holds what is no plain data: {error}"
            ) from error
        return cls._decoded(content, "that was given")

    @classmethod
    def _decoded(cls, content: bytes, source: str) -> Self:
        try:
            held = msgspec.json.decode(content, type=_File)
        except msgspec.ValidationError as error:
            what = f"the table of terminations {source} is wrong: {error}{_choices(str(error))}"
            raise UsageError(what) from error
        except msgspec.DecodeError as error:
            raise UsageError(f"the table of terminations {source} is no JSON: {error}") from error
        return cls(held.rows, version=held.version, providers=held.providers)

    def overridden_by(
        self,
        own: TerminationTable
        | Mapping[str, Any]
        | Iterable[TerminationRow | Mapping[str, Any]]
        | str
        | Path,
    ) -> TerminationTable:
        """This table behind one's own: where a row of one's own holds, this one is not asked.

        Args:
            own: a table, its data, rows, or the path of a file.

        Raises:
            UsageError: when it cannot be read, or says something that no row can; with where.
        """
        if isinstance(own, str | Path):
            own = TerminationTable.from_file(own)
        elif not isinstance(own, TerminationTable):
            own = TerminationTable.from_data(own)
        table = self
        for layer in reversed(own.layers):
            table = TerminationTable(
                layer.rows, version=layer.version, providers=layer.providers, behind=table
            )
        return table

    def row(
        self, provider: str | None, model: str | None, at: date, *, route: str | None = None
    ) -> TerminationRow:
        """The row that holds for a call at that day; one that says `unknown` where none does.

        Among the rows that hold the most specific wins, by provider, by model and then by route, and
        among those the one with the newest `valid_from`.

        Args:
            provider: its name, another name of it, or the host that is called.
            model: the model's name; None matches only `*`.
            at: the day.
            route: the dialect, such as `openai-responses`; None matches only `*`.
        """
        name = self._name(provider)
        for layer in self.layers:
            holding = [row for row in layer.rows if _holds(row, name, model, at, route)]
            if holding:
                return max(holding, key=lambda row: row.specificity)
        return TerminationRow(provider=name or "unknown", table=self.version)

    def knows(self, provider: str) -> bool:
        """Whether there is any row for a provider, by name or host."""
        name = self._name(provider)
        return any(row.provider == name for layer in self.layers for row in layer.rows)

    def _name(self, provider: str | None) -> str | None:
        """A provider's own name, from any of its names or its host."""
        if provider is None:
            return None
        asked = provider.strip().lower()
        for layer in self.layers:
            for name, others in layer.providers.items():
                if asked == name or any(fnmatchcase(asked, other) for other in others):
                    return name
        return asked

    def _placed(self, row: TerminationRow) -> TerminationRow:
        """A row as it stands in this table; names are compared in lower case."""
        return msgspec.structs.replace(
            row,
            provider=self._name(row.provider) or "",
            model=row.model.lower(),
            route=row.route.lower(),
            table=row.table or self.version,
        )


def row_of_call(
    url: str, provider: str | None, model: str | None, route: str | None = None
) -> TerminationRow:
    """The shipped row for a call made today: by its host where the table knows that, else by name.

    Args:
        url: where the call goes.
        provider: who is called, as the caller says.
        model: which model.
        route: the dialect.
    """
    host = urlsplit(url).hostname or ""
    return _row_of_call(host, provider, model, route, datetime.now(UTC).date())


def _check_rows(rows: tuple[TerminationRow, ...], version: str) -> None:
    seen = set()
    for number, row in enumerate(rows):
        where = f"row {number} of the table of terminations {version}"
        if not row.provider or not row.model or not row.route:
            raise UsageError(f"{where} has an empty provider, model or route; `*` stands for all")
        key = (row.provider, row.model, row.route, row.valid_from)
        if key in seen:
            raise UsageError(f"{where} repeats an earlier one ({row}); give it a day of its own")
        seen.add(key)


def _choices(message: str) -> str:
    """What may stand where a value stands that may not."""
    for name, choices in _CHOICES.items():
        if message.endswith(f".{name}`"):
            return f"; use one of {', '.join(choices)}"
    return ""


_CHOICES: Final[Mapping[str, type[StrEnum]]] = {
    "on_close": OnClose,
    "usage": UsageArrives,
    "cancel": ExplicitCancel,
    "lookup": LateLookup,
    "grade": Grade,
}


def _holds(
    row: TerminationRow, name: str | None, model: str | None, at: date, route: str | None
) -> bool:
    return (
        row.provider in (name, "*")
        and _matches(row.model, model)
        and _matches(row.route, route)
        and (row.valid_from is None or row.valid_from <= at)
    )


def _matches(pattern: str, asked: str | None) -> bool:
    return pattern == "*" or (asked is not None and fnmatchcase(asked.lower(), pattern))


def _is_pattern(text: str) -> bool:
    return any(sign in text for sign in "*?[")


@lru_cache(maxsize=512)
def _row_of_call(
    host: str, provider: str | None, model: str | None, route: str | None, at: date
) -> TerminationRow:
    """The same call has the same row all day: it is looked for once."""
    table = TerminationTable.shipped()
    return table.row(host if table.knows(host) else provider, model, at, route=route)


@cache
def _shipped() -> TerminationTable:
    """Read once; it never changes."""
    content = files("streamguard_providers").joinpath("termination_table.json").read_bytes()
    return TerminationTable._decoded(content, "of this package")  # noqa: SLF001
