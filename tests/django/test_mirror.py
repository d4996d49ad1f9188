"""Every receipt becomes a row, once, exactly, and never at the cost of a stream."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, OperationalError, connection
from django.db.models import Sum
from django.test import override_settings

from streamguard_core import (
    Cause,
    Count,
    CountSource,
    Price,
    Receipt,
    Unpriced,
    UsageError,
    plain_receipt,
)
from streamguard_django import mirror as mirror_module
from streamguard_django.amounts import AmountField
from streamguard_django.mirror import Mirror
from streamguard_django.models import StreamReceipt
from streamguard_django.rows import row_from, row_of
from streamguard_django.signals import stream_sealed

from .receipts import price, receipt_of

SEALED = datetime(2023, 11, 14, 22, 13, 21, 500_000, tzinfo=UTC)


def _seal(*receipts: Receipt) -> None:
    for receipt in receipts:
        outcomes = stream_sealed.send_robust(sender=Receipt, request=None, receipt=receipt)
        assert [outcome for _, outcome in outcomes if isinstance(outcome, Exception)] == []


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    """The mirror of the project; whatever it was given is written when the test is over."""
    mirror: Mirror = apps.get_app_config("streamguard").mirror
    yield mirror
    assert mirror.flush()


@pytest.mark.django_db
def test_a_receipt_is_a_row_with_everything_to_search_and_add_up_by() -> None:
    """Cause, tokens with bounds and source, money, instants in UTC, and the whole receipt as the ledger keeps it."""
    receipt = receipt_of(price=price("0.000002500001"), finish="stop")
    _seal(receipt)
    row = StreamReceipt.objects.get()
    assert (row.stream_id, row.cause, row.category, row.party, row.finish) == (
        "s0",
        "CLIENT_DISCONNECT",
        "user",
        "CONSUMER",
        "stop",
    )
    assert (row.tenant, row.route, row.provider, row.model, row.request_id, row.attempts) == (
        "acme",
        "/chat",
        "openai",
        "gpt-5-nano",
        "req-s0",
        1,
    )
    assert (row.input_tokens, row.input_source) == (11, "provider_final")
    assert (row.output_tokens, row.output_lower, row.output_upper) == (9, 9, 9)
    assert (row.cost, row.currency, row.unpriced) == (Decimal("0.000002500001"), "USD", "")
    assert row.sealed_at == SEALED
    assert row.first_chunk_at == row.opened_at + timedelta(milliseconds=250)
    assert row.duration == timedelta(seconds=1.5)
    assert row.data == {
        key: item for key, item in plain_receipt(receipt).items() if key not in {"v", "kind"}
    }


@pytest.mark.django_db
def test_unknown_is_null_and_unpriced_is_a_state() -> None:
    """G12: no number is no 0, and a row that claims to be free without a price cannot exist."""
    estimate = Count(None, 3, 40, CountSource.TOKENIZER)
    bounded = Price(unpriced=Unpriced.UNKNOWN_USAGE, lower="0.100000000000", currency="USD")
    _seal(receipt_of(output=estimate, price=bounded), receipt_of("s1"))
    row = StreamReceipt.objects.get(pk="s0")
    assert (row.output_tokens, row.output_lower, row.output_upper) == (None, 3, 40)
    assert (row.cost, row.cost_lower, row.unpriced) == (None, Decimal("0.1"), "unknown_usage")
    assert row.price == ">=0.10 USD"
    assert StreamReceipt.objects.get(pk="s1").price == "unpriced"
    with pytest.raises(IntegrityError):
        StreamReceipt.objects.filter(pk="s1").update(unpriced="")


@pytest.mark.django_db
def test_a_receipt_that_comes_twice_is_one_row() -> None:
    """The stream's id is the key; what was written first stays."""
    _seal(receipt_of(finish="stop"), receipt_of(finish="length"))
    assert [row.finish for row in StreamReceipt.objects.all()] == ["stop"]


@pytest.mark.django_db
def test_money_is_added_up_exactly_by_the_database() -> None:
    """Twelve places, a large and many small ones: no float comes between, on SQLite as elsewhere."""
    _seal(receipt_of("big", price=price("1234567.000000000001")))
    _seal(*(receipt_of(f"s{number}", price=price("0.000000000001")) for number in range(9)))
    total = StreamReceipt.objects.aggregate(total=Sum("cost"))["total"]
    assert total == Decimal("1234567.000000000010")
    assert StreamReceipt.objects.filter(cost__gt=Decimal("0.5")).count() == 1


def test_an_amount_is_exact_or_refused() -> None:
    """Floats, words and a thirteenth place are no amounts; fixtures and forms keep every digit."""
    field = AmountField()
    assert field.get_prep_value("0.000000000001") == 1
    for wrong in (0.5, "0.0000000000001"):
        with pytest.raises(ValueError, match="amount"):
            field.get_prep_value(wrong)
    with pytest.raises(ValidationError):
        field.to_python("much")
    assert field.to_python("2.5") == Decimal("2.5")
    assert field.formfield().decimal_places == 12
    row = row_of(receipt_of(price=price("2.5")))
    cost = StreamReceipt._meta.get_field("cost")
    assert cost.to_python(cost.value_to_string(row)) == row.cost == Decimal("2.5")


def test_what_is_too_long_or_no_text_does_not_keep_a_receipt_out() -> None:
    """A column is cut and cleaned for databases that are strict; the receipt inside is whole."""
    row = row_of(receipt_of(model="m" * 300, request_id="a\x00b\ud800"))
    assert (len(row.model), row.data["model"]) == (200, "m" * 300)
    assert row.request_id == "a\N{REPLACEMENT CHARACTER}b?"
    assert row.record.isascii()
    with pytest.raises(UsageError, match="1 to 255"):
        row_of(receipt_of("x" * 256))


def test_forged_data_is_no_traceback() -> None:
    """A row is made of whatever somebody wrote into a ledger; what is no number is not known."""
    row = row_from(
        {
            "stream_id": "s0",
            "produced": "9",
            "output": [],
            "price": {"total": 7, "currency": "USD"},
            "opened_us": 2**62,
            "attempts": 3,
            "late": 2**70,
            "tags": "none",
        }
    )
    assert (row.produced, row.late, row.attempts, row.opened_at) == (None, None, None, None)
    assert (row.cost, row.unpriced) == (None, "unknown_usage")


def test_a_project_without_time_zones_gets_utc() -> None:
    """USE_TZ = False: databases refuse aware datetimes, so the row has naive ones, in UTC."""
    with override_settings(USE_TZ=False):
        assert row_of(receipt_of()).sealed_at == SEALED.replace(tzinfo=None)


@pytest.mark.django_db
def test_the_mirror_can_be_switched_off(mirror: Mirror) -> None:
    """By the setting, and for a while by a test."""
    with override_settings(STREAMGUARD={"MIRROR": False}):
        _seal(receipt_of())
    with mirror.paused():
        _seal(receipt_of())
    assert not StreamReceipt.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_no_database_is_touched_on_an_event_loop(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a loop a thread of its own writes, in as few transactions as there are waits."""
    batches: list[tuple[str, int]] = []
    insert = mirror_module._insert

    def noted(rows: Any) -> None:
        batches.append((threading.current_thread().name, len(rows)))
        insert(rows)

    monkeypatch.setattr(mirror_module, "_insert", noted)

    async def many() -> None:
        _seal(*(receipt_of(f"s{number}") for number in range(300)))

    asyncio.run(many())
    assert mirror.flush()
    assert StreamReceipt.objects.count() == 300
    assert {name for name, _ in batches} == {"streamguard-mirror"}
    assert len(batches) < 300


@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_down_harms_nothing(
    mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with what to do, nothing raises, and the next receipt is written when the table is there."""
    with connection.schema_editor() as editor:
        editor.delete_model(StreamReceipt)
    try:
        with caplog.at_level(logging.ERROR, "streamguard_django"):
            _seal(receipt_of("lost"))
            assert mirror.flush()
        assert "1 receipt(s), the first of stream lost" in caplog.text
        assert "manage.py migrate streamguard" in caplog.text
    finally:
        with connection.schema_editor() as editor:
            editor.create_model(StreamReceipt)
    _seal(receipt_of("kept"))
    assert mirror.flush()
    assert [row.pk for row in StreamReceipt.objects.all()] == ["kept"]


def test_connections_that_cannot_be_looked_after_do_not_end_the_mirror(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Django looks at its old connections before and after each batch; what that raises takes nobody's rows along."""
    written: list[str] = []

    def down() -> None:
        raise OperationalError("secret")

    monkeypatch.setattr(mirror_module, "close_old_connections", down)
    monkeypatch.setattr(
        mirror_module, "_write", lambda rows: written.extend(row.pk for row in rows)
    )
    monkeypatch.setattr(mirror_module, "_in_transaction", lambda: False)
    mirror = Mirror()
    for stream in ("s1", "s2"):
        mirror.receive(receipt=receipt_of(stream_id=stream))
        assert mirror.flush()
    assert written == ["s1", "s2"]


@pytest.mark.django_db(transaction=True)
def test_one_row_that_cannot_be_written_does_not_take_the_others_along(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A batch that the database refuses is written row by row."""
    good, bad = row_of(receipt_of("good")), row_of(receipt_of("bad"))
    bad.cost = 0.5
    with caplog.at_level(logging.ERROR, "streamguard_django"):
        mirror_module._write([bad, good])
    assert [row.pk for row in StreamReceipt.objects.all()] == ["good"]
    assert "the first of stream bad: ValueError: an amount is exact" in caplog.text


def test_receipts_beyond_the_bound_are_left_to_the_ledger(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that hangs cannot make us keep receipts without end: it is said, and nothing waits."""
    monkeypatch.setattr(mirror_module, "_MAX_WAITING", 2)
    going, entered = threading.Event(), threading.Event()

    def hangs(rows: object) -> None:
        entered.set()
        going.wait(20)

    monkeypatch.setattr(mirror_module, "_write", hangs)
    mirror = Mirror()
    mirror._put(row_of(receipt_of("s0")))
    assert entered.wait(20)
    for number in range(1, 4):
        mirror._put(row_of(receipt_of(f"s{number}")))
    assert "stream s3: too many wait" in caplog.text
    assert not mirror.flush(0.001)
    going.set()
    assert mirror.flush()


@pytest.mark.django_db
def test_the_migrations_are_those_of_the_models() -> None:
    """Nobody is told to make migrations for an app that is not theirs."""
    call_command("makemigrations", "streamguard", "--check", "--dry-run", verbosity=0)


FORKED = """
import os, sys
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["streamguard_django"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
)
django.setup()
from django.apps import apps
from django.core.management import call_command
from django.db import connections
from streamguard_django.models import StreamReceipt
from streamguard_django.rows import row_from
call_command("migrate", "streamguard", verbosity=0)
connections.close_all()
mirror = apps.get_app_config("streamguard").mirror
def put(name):
    mirror._put(row_from({"stream_id": name}))
    assert mirror.flush()
put("parent")
child = os.fork()
if not child:
    put("child")
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
put("parent again")
print(sorted(StreamReceipt.objects.values_list("pk", flat=True)))
"""


def test_a_forked_child_writes_its_own_receipts(tmp_path: Path) -> None:
    """A server that loads the application before it forks: the thread stays with the parent, a child starts its own."""
    command = [sys.executable, "-c", FORKED, str(tmp_path / "db.sqlite3")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "['child', 'parent', 'parent again']", done.stderr


def test_causes_are_not_copied_into_the_table() -> None:
    """A new cause of the core needs no migration here."""
    assert StreamReceipt._meta.get_field("cause").choices is None
    assert max(map(len, Cause)) <= StreamReceipt._meta.get_field("cause").max_length
