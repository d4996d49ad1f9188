"""The commands: what was spent, whether it is true, and how to catch up."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import override_settings

from streamguard_core import Cause, Count, CountSource, MemoryLedger, Price, Unpriced
from streamguard_django.models import StreamReceipt
from streamguard_django.rows import row_of
from streamguard_ledger import SQLiteLedger

from .receipts import OPENED_US, keep, price, receipt_of

pytestmark = pytest.mark.django_db

DAY_US = 86_400_000_000


def _run(name: str, *arguments: str) -> str:
    out = StringIO()
    call_command(f"streamguard_{name}", *arguments, stdout=out)
    return out.getvalue()


def _fails(name: str, *arguments: str) -> tuple[int, str, str]:
    out = StringIO()
    with pytest.raises(CommandError) as failure:
        call_command(f"streamguard_{name}", *arguments, stdout=out)
    return failure.value.returncode, str(failure.value), out.getvalue()


@pytest.fixture
def some() -> None:
    """Receipts of two tenants, in two currencies, on two days; one without a price, one of nobody's."""
    rows = [
        receipt_of("a", price=price("0.25")),
        receipt_of("b", price=price("0.000000000001"), cause=Cause.COMPLETED),
        receipt_of("c", price=price("3", "EUR"), opened_us=OPENED_US + DAY_US),
        receipt_of(
            "d", tags={"tenant": "\x1b[31mevil"}, output=Count.at_least(2, CountSource.CHUNKS)
        ),
        receipt_of("e", tags={}, price=Price(unpriced=Unpriced.UNKNOWN_MODEL), model="m2"),
    ]
    StreamReceipt.objects.bulk_create(map(row_of, rows))


@pytest.mark.usefixtures("some")
def test_a_report_adds_up_by_tenant() -> None:
    """One line each and a total: currencies apart, unpriced and unknown counted, nothing of it a 0 (G12)."""
    lines = {line.split()[0]: line for line in _run("report").splitlines()[2:]}
    assert lines["acme"].split()[1:4] == ["3", "33", "27"]
    assert lines["acme"].endswith("3.00 EUR and 0.250000000001 USD")
    assert lines["(none)"].endswith("unpriced")
    assert lines["TOTAL"].split()[1] == "5"
    assert "36 (+ 1 unknown)" in lines["TOTAL"]
    assert lines["TOTAL"].endswith("3.00 EUR and 0.250000000001 USD (+ 2 unpriced)")


@pytest.mark.usefixtures("some")
def test_a_report_cannot_steer_a_terminal() -> None:
    """A tenant's name may come from anywhere."""
    assert "\x1b" not in _run("report")
    assert "[31mevil" in _run("report")


@pytest.mark.usefixtures("some")
def test_a_report_of_a_period_as_json() -> None:
    """Days are whole, in UTC, the last one included; amounts are strings with every digit."""
    said = json.loads(_run("report", "--json", "--by", "model, cause", "--until", "2023-11-14"))
    assert said["total"]["streams"] == 4
    (completed,) = [one for one in said["groups"] if one["cause"] == "COMPLETED"]
    assert (completed["model"], completed["cost"]) == ("gpt-5-nano", {"USD": "0.000000000001"})
    assert completed["waste"] == {"value": None, "unknown": 1}
    later = json.loads(_run("report", "--json", "--since", "2023-11-15"))
    assert later["total"] == {
        "streams": 1,
        "input": {"value": 11, "unknown": 0},
        "output": {"value": 9, "unknown": 0},
        "waste": {"value": None, "unknown": 1},
        "prevented_at_most": {"value": None, "unknown": 1},
        "cost": {"EUR": "3.000000000000"},
        "unpriced": 0,
    }
    assert "No receipts from 2024-01-01 to now" in _run("report", "--since", "2024-01-01")
    assert json.loads(_run("report", "--json", "--tenant", "acme"))["total"]["streams"] == 3
    with override_settings(USE_TZ=False):
        assert json.loads(_run("report", "--json", "--since", "2023-11-15"))["groups"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--by", "colour"], "'colour' is none of tenant, route"),
        (["--since", "yesterday"], "'yesterday' is no date such as 2026-11-01"),
        (["--since", "2024-01-02", "--until", "2024-01-01"], "is before"),
    ],
)
def test_a_report_says_what_is_wrong_with_its_options(arguments: list[str], says: str) -> None:
    """In words, without a traceback."""
    assert says in _fails("report", *arguments)[1]


@pytest.mark.django_db(transaction=True)
def test_a_report_without_a_table_says_to_migrate() -> None:
    """Exit 2."""
    with connection.schema_editor() as editor:
        editor.delete_model(StreamReceipt)
    try:
        code, says, _ = _fails("report")
    finally:
        with connection.schema_editor() as editor:
            editor.create_model(StreamReceipt)
    assert (code, "manage.py migrate streamguard" in says) == (2, True)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SQLiteLedger]:
    """A ledger with three receipts, of which the table has two."""
    with SQLiteLedger(tmp_path / "ledger") as ledger:
        receipts = [receipt_of(name, price=price("0.25")) for name in ("a", "b", "c")]
        keep(ledger, *receipts)
        StreamReceipt.objects.bulk_create(map(row_of, receipts[:2]))
        with override_settings(STREAMGUARD={"LEDGER": ledger}):
            yield ledger


def _edit(ledger: SQLiteLedger) -> Any:
    (file,) = (ledger.path / "writers").glob("*.db")
    return closing(sqlite3.connect(file, isolation_level=None))


@pytest.mark.usefixtures("ledger")
def test_what_is_missing_is_found_and_copied() -> None:
    """Exit 3 before, 0 after; what is copied is the same row, and copying again adds nothing."""
    code, says, out = _fails("verify")
    assert (code, "INCOMPLETE" in says) == (3, True)
    assert "stream c: its receipt is in the ledger and not in the table" in out
    assert "1 added, 2 found in their place, 0 differ" in _run("mirror")
    assert "OK: every record" in _run("verify")
    assert "0 added, 0 found" in _run("mirror")
    told = StreamReceipt.objects.get(pk="a")
    copied = StreamReceipt.objects.get(pk="c")
    assert copied.data == told.data | {"stream_id": "c", "request_id": "req-c"}
    assert (copied.cost, copied.seq, len(copied.writer)) == (told.cost, 6, 32)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("cost", "0.2", "cost"),
        ("tenant", "other", "tenant"),
        ("output_tokens", None, "output_tokens"),
        ("record", "{", "record (it is damaged"),
        ("record", '{"stream_id":"a"}', "record.attempts"),
        ("opened_at", None, "opened_at"),
    ],
)
@pytest.mark.usefixtures("ledger")
def test_a_row_that_was_changed_is_found(column: str, value: object, says: str) -> None:
    """Whatever column it is: exit 1, nothing is mended in silence, and --repair mends it."""
    _run("mirror")
    StreamReceipt.objects.filter(pk="a").update(**{column: value})
    code, verdict, out = _fails("verify")
    assert (code, "NOT OK" in verdict) == (1, True)
    assert f"stream a: not what the ledger says in {says}" in out
    assert _fails("mirror")[0] == 1
    assert "0 added, 0 found in their place, 1 repaired" in _run("mirror", "--repair")
    assert "OK: every record" in _run("verify")


@pytest.mark.usefixtures("ledger")
def test_a_row_of_which_the_ledger_knows_nothing_is_found() -> None:
    """Invented, or open in the ledger: evidence, exit 1, as text and as JSON."""
    _run("mirror")
    StreamReceipt.objects.bulk_create([row_of(receipt_of("invented"))])
    code, _, out = _fails("verify", "--json")
    said = json.loads(out)
    assert (code, said["ok"], said["exit_code"]) == (1, False, 1)
    assert said["rows"]["differences"] == ["stream invented: the ledger knows nothing of it"]
    assert (said["rows"]["rows"], said["rows"]["matched"]) == (4, 3)


def test_a_stream_that_is_open_in_the_ledger_has_no_row(ledger: SQLiteLedger) -> None:
    """A row that says how it ended was made up."""
    _run("mirror")
    receipt = receipt_of("live")
    ledger.append_open(_opening_of(receipt)).result()
    StreamReceipt.objects.bulk_create([row_of(receipt)])
    assert "stream live: the ledger has no receipt of it" in _fails("verify")[2]


def _opening_of(receipt: Any) -> Any:
    from streamguard_core import OpenRecord

    return OpenRecord(stream_id=receipt.stream_id, opened_us=receipt.opened_us)


def test_a_receipt_of_this_minute_may_be_on_its_way(ledger: SQLiteLedger) -> None:
    """What was sealed a moment ago is not missing yet."""
    import time

    _run("mirror")
    keep(ledger, receipt_of("new", sealed_us=time.time_ns() // 1000))
    assert "1 sealed within the last minute" in _run("verify")


def test_what_a_ledger_left_out_is_no_difference(ledger: SQLiteLedger) -> None:
    """A tag that has no place in canonical JSON is in the row alone, and the ledger says that it left it out."""
    receipt = receipt_of(
        "odd", tags={"tenant": "acme", "gr\N{LATIN SMALL LETTER O WITH DIAERESIS}sse": "x"}
    )
    ledger.append_close(receipt).result()
    StreamReceipt.objects.bulk_create([row_of(receipt)])
    _run("mirror")
    assert "OK: every record" in _run("verify")


def test_a_ledger_that_was_changed_is_found(ledger: SQLiteLedger) -> None:
    """The chain is verified as well as the rows: exit 1, also where rows cannot be compared any more."""
    _run("mirror")
    with _edit(ledger) as file:
        file.execute("UPDATE record SET body = x'ff' WHERE stream_id = 'a' AND kind = 'CLOSE'")
    code, _, out = _fails("verify")
    assert code == 1
    assert "Problems of the ledger" in out
    assert "The rows were not compared: the ledger is damaged." in out
    assert _fails("mirror")[0] == 2


def test_without_a_ledger_there_is_nothing_to_verify(ledger: SQLiteLedger) -> None:
    """None set, one that cannot be read back, one whose folder is gone: exit 2 and what to do."""
    for settings, says in (
        ({}, 'STREAMGUARD has no "LEDGER"'),
        ({"LEDGER": MemoryLedger()}, "a MemoryLedger, cannot be read back"),
    ):
        with override_settings(STREAMGUARD=settings):
            for command in ("verify", "mirror"):
                code, text, _ = _fails(command)
                assert (code, says in text) == (2, True)
    shutil.rmtree(ledger.path / "writers")
    code, text, _ = _fails("verify")
    assert (code, "restore it from a backup" in text) == (2, True)
