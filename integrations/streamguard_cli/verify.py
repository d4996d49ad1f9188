"""`streamguard verify`: shows whether a ledger is whole, and what that cannot tell."""

from __future__ import annotations

import json
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from streamguard_cli.console import console
from streamguard_cli.tables import Ledger, printable, refuse, show
from streamguard_core import LedgerError
from streamguard_ledger import VerifyReport
from streamguard_ledger import verify as verify_ledger

_SHOWN: Final = 50
_VERDICTS: Final = {
    0: ("OK: every record is as it was written, and every stream adds up.", "bold green"),
    1: ("NOT OK: records were changed, removed or added.", "bold red"),
    3: ("INCOMPLETE: nothing was changed as far as it goes, but it has no end.", "bold yellow"),
    4: ("UNKNOWN: newer software wrote a part of it; verify it with that.", "bold yellow"),
}


def verify(
    path: Ledger,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="The whole report as JSON.")] = False,
) -> None:
    """Verify a ledger: bytes, chains, pairs of OPEN and CLOSE, sums.

    The ledger may be in use; nothing is changed. Exit codes: 0 ok, 1 evidence
    of tampering or damage, 2 no ledger there, 3 incomplete (a process was
    killed and none started since), 4 written by newer software.
    """
    try:
        report = verify_ledger(path)
    except LedgerError as error:
        raise refuse(str(error)) from None
    if as_json:
        typer.echo(json.dumps(report.to_data(), indent=2))
    else:
        _show(report)
    raise typer.Exit(report.exit_code)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(verify)


def _show(report: VerifyReport) -> None:
    out = console()
    out.print(printable(f"Ledger {report.log} at {report.path}"))
    out.print()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("writer", "state", "records", "chain", "head"):
        table.add_column(name, justify="right" if name == "records" else "left")
    for writer in report.writers:
        chain = "sound" if writer.sound else "NOT SOUND"
        cells = (writer.writer, writer.state, writer.records, chain, writer.head or "")
        table.add_row(*(printable(cell) for cell in cells))
    show(table)
    out.print(f"\n{report.streams} streams, {report.open_streams} of them open")
    _list("Problems", [str(problem) for problem in report.problems])
    _list("Not understood", report.unknown)
    _list("Incomplete", report.incomplete)
    _list("Not checked", report.not_checked)
    text, style = _VERDICTS[report.exit_code]
    out.print(Text.assemble("\n", (text, style)))


def _list(title: str, lines: tuple[str, ...] | list[str]) -> None:
    if not lines:
        return
    out = console()
    out.print(f"\n{title}:")
    for line in lines[:_SHOWN]:
        out.print(printable(f"  - {line}"))
    if len(lines) > _SHOWN:
        out.print(f"  and {len(lines) - _SHOWN} more; --json tells all")
