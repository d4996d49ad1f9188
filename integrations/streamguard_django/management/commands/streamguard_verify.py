"""`manage.py streamguard_verify`: is the ledger whole, and does the table say what it says?"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from streamguard_core import LedgerError, Verification
from streamguard_django.management.output import listed
from streamguard_django.matching import Matching, match, readable_ledger

_VERDICTS: Final = {
    0: "OK: every record of the ledger is as it was written, and every row says what the ledger says.",
    1: "NOT OK: records or rows were changed, removed or added.",
    3: "INCOMPLETE: nothing was changed as far as it goes, but something is missing.",
    4: "UNKNOWN: newer software wrote a part of the ledger; verify it with that.",
}


class Command(BaseCommand):
    """Verifies the ledger of `STREAMGUARD["LEDGER"]` and the mirrored rows; changes neither's receipts."""

    help = (
        "Verify the ledger and the table of receipts. Exit codes: 0 ok, 1 something was changed, 2 there is"
        " nothing to verify, 3 something is missing, 4 newer software wrote it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The form."""
        parser.add_argument("--json", action="store_true", help="the whole report as JSON")

    def handle(self, *_: Any, **options: Any) -> None:
        """Print the report.

        Raises:
            CommandError: with the exit code, when not everything is well.
        """
        try:
            ledger = readable_ledger()
            report, rows = ledger.verify(), None
            # What the ledger's own report calls damage keeps the rows from being compared.
            rows = match(ledger) if not report.problems else _match_what_can_be_read(ledger)
        except (LedgerError, DatabaseError) as error:
            raise CommandError(f"cannot verify: {error}", returncode=2) from error
        code = _exit_code(report, rows)
        if options["json"]:
            self.stdout.write(json.dumps(_data(report, rows, code), indent=2))
        else:
            self.stdout.write(_text(report, rows))
        if code:
            raise CommandError(_VERDICTS[code], returncode=code)
        if not options["json"]:
            self.stdout.write(_VERDICTS[code])


def _match_what_can_be_read(ledger: Any) -> Matching | None:
    try:
        return match(ledger)
    except LedgerError:
        return None


def _exit_code(report: Verification, rows: Matching | None) -> int:
    if report.problems or rows is None or rows.different_count:
        return 1
    if report.exit_code:
        return report.exit_code
    return 3 if rows.missing_count else 0


def _text(report: Verification, rows: Matching | None) -> str:
    parts = [
        listed("Problems of the ledger", report.problems),
        listed("Not understood", report.unknown),
        listed("Incomplete", report.incomplete),
    ]
    if rows is None:
        parts.append("The rows were not compared: the ledger is damaged.\n")
    else:
        parts += [
            f"{rows.rows} rows, {rows.matched} of them as in the ledger\n",
            listed("Rows that differ", rows.different, rows.different_count),
            listed(
                "Without a row (`manage.py streamguard_mirror` adds them)",
                rows.missing,
                rows.missing_count,
            ),
        ]
        if rows.settling:
            parts.append(
                f"{rows.settling} sealed within the last minute, and not in the table yet\n"
            )
    parts.append(listed("Not checked", report.not_checked))
    return "\n".join(part for part in parts if part)


def _data(report: Verification, rows: Matching | None, code: int) -> dict[str, Any]:
    return {
        "ok": code == 0,
        "exit_code": code,
        "ledger": {
            name: [str(one) for one in getattr(report, name)]
            for name in ("problems", "unknown", "incomplete", "not_checked")
        },
        "rows": None if rows is None else rows.to_data(),
    }
