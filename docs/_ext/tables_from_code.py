"""Sphinx directives that draw the manual's tables from the code, which they cannot contradict."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

Cell: TypeAlias = str | nodes.Node
_SHORT = 80


def _node(cell: Cell) -> nodes.Node:
    return nodes.literal("", cell) if isinstance(cell, str) else cell


def _row(cells: Iterable[Cell]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        row += nodes.entry("", nodes.paragraph("", "", _node(cell)))
    return row


def _table(head: Sequence[Cell], rows: Iterable[Sequence[Cell]]) -> nodes.table:
    """A table of cells; text in a cell is code, prose is passed as a node."""
    group = nodes.tgroup(cols=len(head))
    for _ in head:
        group += nodes.colspec(colwidth=20)
    group += nodes.thead("", _row(head))
    group += nodes.tbody("", *(_row(row) for row in rows))
    return nodes.table("", group, classes=["colwidths-auto"])


def _prose(text: str) -> nodes.Node:
    return nodes.inline("", text)


def _first_paragraph(item: object) -> str:
    doc = inspect.getdoc(item) or ""
    return " ".join(doc.split("\n\n")[0].split()).replace("`", "")


def _described(item: object) -> str:
    """Return what a public name is: its own words, or its value if that is short."""
    if inspect.isclass(item) or inspect.isroutine(item) or inspect.ismodule(item):
        return _first_paragraph(item)
    value = str(item)
    return f"= {value}" if len(value) < _SHORT else f"a {type(item).__name__}"


class Transitions(SphinxDirective):
    """`{transitions} role`: one row per event and one column per state, from `transitions.py`."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """Draw the table of one role; a missing cell is an illegal transition."""
        module = importlib.import_module("streamguard_core.transitions")
        table = module.TRANSITIONS[self.arguments[0]]
        events = [event for event in module.Event if any(event in row for row in table.values())]
        rows = [
            [
                event.name,
                _prose(event.value),
                *(row[event].name if event in row else _prose("") for row in table.values()),
            ]
            for event in events
        ]
        return [_table([_prose("event"), _prose("when"), *(state.name for state in table)], rows)]


class Causes(SphinxDirective):
    """`{causes}`: every cause with its category and the party behind it."""

    def run(self) -> list[nodes.Node]:
        """Draw the table from the enumeration."""
        causes = importlib.import_module("streamguard_core.causes").Cause
        rows = [
            [str(cause), str(cause.category), str(cause.party) if cause.party else _prose("nobody")]
            for cause in causes
        ]
        return [_table([_prose("cause"), _prose("category"), _prose("party")], rows)]


class Terminations(SphinxDirective):
    """`{terminations}`: the shipped table of what closing saves; with `evidence`, why it is believed."""

    optional_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """Draw the table from the data that is shipped."""
        table = importlib.import_module("streamguard_providers").TerminationTable.shipped()
        if self.arguments:
            return [self._evidence(table)]
        rows = [
            [
                row.provider,
                _prose("all" if row.route == "*" else row.route),
                str(row.on_close),
                _prose({True: "yes", False: "no", None: "not known"}[row.stops_generation]),
                str(row.usage) if row.usage else _prose("not known"),
                _prose(str(row.cancel).replace("_", " ")),
                _prose(str(row.lookup).replace("_", " ")),
                _prose(", ".join(sorted({str(one.grade) for one in row.evidence}))),
            ]
            for row in table.rows
        ]
        head = (
            "provider",
            "route",
            "on close",
            "model stops",
            "usage",
            "cancel",
            "lookup",
            "grade",
        )
        return [_table([_prose(word) for word in head], rows)]

    def _evidence(self, table: Any) -> nodes.Node:
        rows = []
        for row in table.rows:
            why = nodes.inline("", "")
            for number, one in enumerate(row.evidence):
                why += nodes.Text("; " if number else "")
                text = f"{one.text} [{one.grade}]"
                why += nodes.reference("", text, refuri=one.link) if one.link else _prose(text)
            route = "" if row.route == "*" else f" ({row.route})"
            rows.append([_prose(row.provider + route), why, _prose(row.note or "")])
        return _table([_prose("provider"), _prose("evidence"), _prose("note")], rows)


class PublicNames(SphinxDirective):
    """`{public-names} package`: the names in `__all__` with their first paragraph."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """List what the package calls public."""
        package = importlib.import_module(self.arguments[0])
        rows = [[name, _prose(_described(getattr(package, name)))] for name in package.__all__]
        return [_table([_prose("name"), _prose("what it is")], rows)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("transitions", Transitions)
    app.add_directive("causes", Causes)
    app.add_directive("public-names", PublicNames)
    app.add_directive("terminations", Terminations)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
