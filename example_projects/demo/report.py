"""Prints the demo's tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from readers import HURRY
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from engines import Seen
    from run import Row

console = Console(width=100, highlight=False)


def say(text: str) -> None:
    """Print a line of progress."""
    console.print(text)


def print_comparison(rows: Sequence[Row], *, exact: bool) -> None:
    """What was generated after the reader had left, and how long the engine was held."""
    counted = "tokens generated" if exact else "tokens sent (at least)"
    table = Table(
        title=f"\n{counted} after the reader left, and seconds until the engine was let go"
    )
    for column in ("pattern", "the reader left"):
        table.add_column(column)
    for column in ("plain", "let go", "guarded", "let go"):
        table.add_column(column, justify="right")
    for row in rows:
        plain, guarded = _cells(row.plain), _cells(row.guarded)
        table.add_row(row.pattern.name, str(row.phase), *plain, *guarded)
    burnt = [str(sum(getattr(row, way).burnt for row in rows)) for way in ("plain", "guarded")]
    table.add_section()
    table.add_row("all", "", burnt[0], "", burnt[1], "")
    console.print(table)
    console.print(
        "Plain async code that opens its stream inside the generator stops within a few tokens today."
    )
    if exact:
        console.print("These four do not: each fails in one phase or in both.\n")
    else:
        console.print(
            "These four may not. A reader that leaves before the first token leaves after"
            f" {HURRY:g} s here:\na fast engine has begun by then. Engines differ in how soon they"
            " notice.\n"
        )


def print_receipts(receipts: Iterable[dict[str, Any]]) -> None:
    """What the ledger says about the guarded streams."""
    table = Table(title="the receipts of the guarded streams (one chunk per frame of the engine)")
    for column in ("receipt", "pattern", "cause", "committed", "waste", "prevented", "close"):
        table.add_column(column, no_wrap=True, justify="right" if column == "committed" else "left")
    for receipt in receipts:
        prevented = receipt["prevented"]
        upper = prevented.get("upper")
        table.add_row(
            receipt["stream_id"][-8:],
            receipt["tags"]["pattern"],
            receipt["cause"],
            str(receipt["committed"]),
            str(receipt["waste"].get("value", "unknown")),
            "unknown" if upper is None else f"at most {upper}",
            receipt["close"],
        )
    console.print(table)


def print_verdict(problems: Sequence[str], ledger: Path) -> None:
    """The clear line at the end."""
    console.print(f"\nreceipts: {ledger}")
    command = _command()
    console.print(
        f"look again: {command} receipts {ledger}\n            {command} verify {ledger}",
        soft_wrap=True,
    )
    for problem in problems:
        console.print(f"NOT CLEAN: {problem}", style="bold red")
    if not problems:
        console.print("The guarded column is clean, and the ledger verifies.", style="bold green")


def _command() -> str:
    """The streamguard command of this environment, as it can be typed here."""
    installed = Path(sys.executable).with_name("streamguard")
    if not installed.exists():
        return "streamguard"
    here = Path.cwd()
    return str(installed.relative_to(here) if installed.is_relative_to(here) else installed)


def _cells(seen: Seen) -> tuple[str, str]:
    held = "not at all" if seen.let_go is None else f"{seen.let_go:.2f} s"
    return str(seen.burnt), held
