"""`manage.py streamguard_report`: what was spent, wasted and avoided over a period."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.utils import timezone

from streamguard_django.management.output import table
from streamguard_django.models import StreamReceipt
from streamguard_django.spending import GROUPS, SUMMED, Total, grand_total, totals


class Command(BaseCommand):
    """Adds up the receipts in the table; the ledger itself is read by `streamguard receipts`."""

    help = "What the receipts of a period come to, by tenant, model or cause."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Period, groups, form."""
        parser.add_argument(
            "--by",
            type=_groups,
            default=["tenant"],
            metavar="NAME[,NAME]",
            help=f"one line for each of these: {', '.join(GROUPS)} (default: tenant)",
        )
        parser.add_argument(
            "--since", type=_day, metavar="DATE", help="first day, such as 2026-11-01, in UTC"
        )
        parser.add_argument("--until", type=_day, metavar="DATE", help="last day, in UTC")
        parser.add_argument("--tenant", help="only this tenant")
        parser.add_argument("--json", action="store_true", help="JSON instead of a table")

    def handle(self, *_: Any, **options: Any) -> None:
        """Print the report.

        Raises:
            CommandError: when the period is none, or the table cannot be read.
        """
        since, until = options["since"], options["until"]
        if since and until and until < since:
            raise CommandError(f"--until {until} is before --since {since}", returncode=2)
        try:
            lines = totals(_receipts(since, until, options["tenant"]), options["by"])
        except DatabaseError as error:
            raise CommandError(
                f"cannot read the receipts: {error}; is the table there? `manage.py migrate streamguard`",
                returncode=2,
            ) from error
        if options["json"]:
            self.stdout.write(json.dumps(_data(lines, options), indent=2))
        else:
            self.stdout.write(_text(lines, options))


def _receipts(since: date | None, until: date | None, tenant: str | None) -> Any:
    found = StreamReceipt.objects.all()
    if since:
        found = found.filter(opened_at__gte=_midnight(since))
    if until:
        found = found.filter(opened_at__lt=_midnight(until + timedelta(days=1)))
    return found if tenant is None else found.filter(tenant=tenant)


def _midnight(day: date) -> datetime:
    moment = datetime.combine(day, time(), UTC)
    return moment if settings.USE_TZ else timezone.make_naive(moment, UTC)


def _text(lines: list[Total], options: dict[str, Any]) -> str:
    period = f"{options['since'] or 'the beginning'} to {options['until'] or 'now'} (UTC)"
    if not lines:
        return f"No receipts from {period}."
    head = [*options["by"], "streams", *(name.replace("_", " ") for name in SUMMED), "price"]
    cells = [_cells(line, line.key) for line in lines]
    empty = [""] * (len(options["by"]) - 1)
    cells.append(_cells(grand_total(lines), ("TOTAL", *empty)))
    return f"Receipts from {period}\n\n{table(head, cells)}"


def _cells(total: Total, key: tuple[str, ...]) -> list[object]:
    names = [name or "(none)" for name in key[:1]] + [name or "" for name in key[1:]]
    return [*names, total.streams, *total.sums.values(), total.price]


def _data(lines: list[Total], options: dict[str, Any]) -> dict[str, Any]:
    by = options["by"]
    return {
        "since": options["since"] and options["since"].isoformat(),
        "until": options["until"] and options["until"].isoformat(),
        "by": by,
        "groups": [dict(zip(by, line.key, strict=True)) | line.to_data() for line in lines],
        "total": grand_total(lines).to_data(),
    }


def _groups(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in GROUPS:
            raise ArgumentTypeError(f"{name!r} is none of {', '.join(GROUPS)}")
    return names


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no date such as 2026-11-01") from None
