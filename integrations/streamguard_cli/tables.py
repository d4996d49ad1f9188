"""What the commands that show a ledger share: tables, safe text, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from streamguard_cli.console import console

_USAGE: Final = 2

# `readable` is false for typer's check alone: ours says what to do.
Ledger = Annotated[
    Path, typer.Argument(help="The directory that SQLiteLedger was given.", readable=False)
]


def printable(cell: object) -> Text:
    """Text for a terminal: what came over a network may hold sequences that steer it."""
    return Text(
        "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in str(cell))
    )


def show(table: Table) -> None:
    """Print a table: folded into a terminal, and at its full width into a file or a pipe."""
    out = Console(markup=False, highlight=False, emoji=False)
    if not out.is_terminal:
        wide = out.options.update(width=10_000, max_width=10_000)
        out.width = Measurement.get(out, wide, table).maximum
    out.print(table)


def refuse(message: str) -> typer.Exit:
    """Print why a command cannot be carried out, and return the exception to exit with 2."""
    console(stderr=True).print(Text.assemble(("Error: ", "bold red"), message))
    return typer.Exit(_USAGE)
