"""`streamguard receipts`: shows what every stream was, how it ended, and what it cost."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from streamguard_cli.console import console, warn
from streamguard_cli.tables import Ledger, printable, refuse, show
from streamguard_core import Cause, LedgerError, PriceSum, Sum, count_text, price_text
from streamguard_ledger import read_receipts

_INCOMPLETE: Final = 3
_STEPS: Final = ("produced", "committed", "consumed", "late")
_COLUMNS: Final = (
    "stream",
    "cause",
    "category",
    "model",
    "chunks",
    "tokens",
    "waste",
    "prevented",
    "price",
    "close",
    "seconds",
)


def receipts(
    path: Ledger,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line, with every field.")
    ] = False,
    cause: Annotated[
        Cause | None,
        typer.Option(help="Only streams that ended for this cause.", case_sensitive=False),
    ] = None,
    last: Annotated[
        int | None, typer.Option(help="Only the latest N of them, by the time they opened.", min=1)
    ] = None,
) -> None:
    """Show the receipts of a ledger, one line per stream, with totals.

    The ledger may be in use. Chunks are produced/committed/consumed/late;
    tokens, waste, prevented and price come with their bounds, and unknown is
    not zero. Exit codes: 0 shown, 2 no ledger there, 3 not everything could be
    read.
    """
    try:
        found = _Reading(read_receipts(path))
    except LedgerError as error:
        raise refuse(str(error)) from None
    chosen: Iterator[dict[str, Any]] = (
        one for one in found if cause is None or one.get("cause") == cause.value
    )
    if last is not None:
        chosen = iter(heapq.nlargest(last, chosen, key=_opened)[::-1])
    if as_json:
        for one in chosen:
            # Straight to the stream: other programs read this.
            typer.echo(json.dumps(one, ensure_ascii=True, separators=(",", ":")))
    else:
        _show_table(sorted(chosen, key=_opened))
    if found.trouble is not None:
        warn(found.trouble)
        raise typer.Exit(_INCOMPLETE)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(receipts)


class _Reading:
    """Iterates receipts, and keeps what is said at the end about those that could not be read."""

    def __init__(self, found: Iterator[dict[str, Any]]) -> None:
        self._found = found
        self.trouble: str | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self._found
        except LedgerError as error:
            self.trouble = str(error)


@dataclass(slots=True)
class _Totals:
    """What the lines of the table add up to."""

    streams: int = 0
    open: int = 0
    sums: dict[str, Sum] = field(default_factory=dict)
    price: PriceSum = field(default_factory=PriceSum)

    def add(self, receipt: dict[str, Any]) -> None:
        self.streams += 1
        if not receipt["sealed"]:
            self.open += 1
            return
        for name in _STEPS:
            self._add(name, receipt.get(name))
        for name, key in (("tokens", "output"), ("waste", "waste")):
            self._add(name, _map(receipt, key).get("value"))
        self._add("prevented at most", _map(receipt, "prevented").get("upper"))
        self.price.add(_map(receipt, "price"))

    def _add(self, name: str, number: object) -> None:
        self.sums.setdefault(name, Sum()).add(number)

    def __str__(self) -> str:
        parts = [f"{self.streams} streams", f"{self.open} open"]
        parts += [f"{name} {total}" for name, total in self.sums.items()]
        return ", ".join([*parts, f"price {self.price}"] if self.sums else parts)


def _show_table(chosen: list[dict[str, Any]]) -> None:
    if not chosen:
        console().print("No receipts.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in _COLUMNS:
        table.add_column(name, justify="right" if name == "seconds" else "left", overflow="fold")
    totals = _Totals()
    for receipt in chosen:
        table.add_row(*(printable(cell) for cell in _cells(receipt)))
        totals.add(receipt)
    show(table)
    console().print(f"\nTotal: {totals}")


def _cells(receipt: dict[str, Any]) -> list[object]:
    sealed = receipt["sealed"]
    instants = _map(receipt, "instants")
    duration = instants.get("sealed_ns")
    close = receipt.get("close", "") if sealed else "open"
    return [
        receipt.get("stream_id", ""),
        receipt.get("cause", ""),
        receipt.get("category", ""),
        receipt.get("model", ""),
        _chunks(receipt) if sealed else "",
        _with_source(_map(receipt, "output")) if sealed else "",
        count_text(_map(receipt, "waste")) if sealed else "",
        count_text(_map(receipt, "prevented")) if sealed else "",
        price_text(_map(receipt, "price")) if sealed else "",
        f"{close}, recovered" if "recovered_from" in receipt else close,
        f"{duration / 1e9:.2f}" if type(duration) is int else "",
    ]


def _chunks(receipt: dict[str, Any]) -> str:
    if not any(name in receipt for name in _STEPS):
        return "unknown"
    return "/".join(str(receipt.get(name, "?")) for name in _STEPS)


def _with_source(count: dict[str, Any]) -> str:
    text = count_text(count)
    source = count.get("source", "none")
    return text if source == "none" else f"{text} {source}"


def _opened(receipt: dict[str, Any]) -> int:
    opened = receipt.get("opened_us")
    return opened if type(opened) is int else 0


def _map(receipt: dict[str, Any], name: str) -> dict[str, Any]:
    found = receipt.get(name)
    return found if isinstance(found, dict) else {}
