"""`manage.py streamguard_mirror`: copies into the table what of the ledger is not there."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from streamguard_core import LedgerError, ReadableLedger
from streamguard_django.management.output import listed
from streamguard_django.matching import Difference, differences, pages, readable_ledger
from streamguard_django.models import StreamReceipt
from streamguard_django.rows import row_from


class Command(BaseCommand):
    """Brings the table up to date after the database was down; what differs is said, and mended on demand."""

    help = "Copy receipts from the ledger into the table: those that have no row there."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """What to do with rows that differ."""
        parser.add_argument(
            "--repair", action="store_true", help="write rows anew that say something else"
        )

    def handle(self, *_: Any, **options: Any) -> None:
        """Copy.

        Raises:
            CommandError: when rows differ and are not to be repaired (1), or nothing can be copied (2).
        """
        try:
            added, placed, wrong = _copy(readable_ledger(), repair=options["repair"])
        except (LedgerError, DatabaseError) as error:
            raise CommandError(f"cannot mirror the ledger: {error}", returncode=2) from error
        done = "repaired" if options["repair"] else "differ"
        self.stdout.write(f"{added} added, {placed} found in their place, {len(wrong)} {done}")
        if wrong:
            self.stdout.write(listed("Rows that said something else", wrong))
        if wrong and not options["repair"]:
            raise CommandError(
                f"{len(wrong)} row(s) say something else than the ledger; look at them first, then run this with"
                " --repair",
                returncode=1,
            )


def _copy(ledger: ReadableLedger, *, repair: bool) -> tuple[int, int, list[Difference]]:
    """Add what is missing, note where each receipt stands in the ledger, and find what differs."""
    added = placed = 0
    wrong: list[Difference] = []
    for page, rows in pages(ledger):
        new, moved = [], []
        for stored in page:
            right = row_from(stored)
            row = rows.get(right.pk)
            if row is None:
                new.append(right)
                continue
            what = differences(row, stored)
            if what is not None:
                wrong.append(Difference(row.pk, what))
                if repair:
                    right.save()
            elif not row.writer:
                moved.append(right)
        StreamReceipt.objects.bulk_create(new, ignore_conflicts=True)
        StreamReceipt.objects.bulk_update(moved, ("writer", "seq"), batch_size=100)
        added, placed = added + len(new), placed + len(moved)
    return added, placed, wrong
