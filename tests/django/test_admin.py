"""Receipts in the admin: seen, searched, added up, verified; never changed, and never a hole for markup."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.contrib.staticfiles import finders
from django.test import Client, override_settings
from django.urls import path

from streamguard_core import Category, Cause, Count, CountSource, Price, Unpriced
from streamguard_django.models import StreamReceipt
from streamguard_django.rows import row_of
from streamguard_ledger import SQLiteLedger

from .receipts import OPENED_US, keep, price, receipt_of

pytestmark = pytest.mark.django_db

URLS = (path("admin/", admin.site.urls),)
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
LIST = "/admin/streamguard/streamreceipt/"
MARKUP = "<script>alert(1)</script>\"'&"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SQLiteLedger]:
    """The project's ledger."""
    with SQLiteLedger(tmp_path / "ledger") as ledger:
        yield ledger


@pytest.fixture(autouse=True)
def project(ledger: SQLiteLedger) -> Iterator[None]:
    """A project with an admin."""
    with override_settings(
        ROOT_URLCONF=URLS, MIDDLEWARE=MIDDLEWARE, STREAMGUARD={"LEDGER": ledger}
    ):
        yield


@pytest.fixture
def client() -> Client:
    """The browser of somebody who may see everything."""
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="x"))
    return client


@pytest.fixture
def some(ledger: SQLiteLedger) -> list[Any]:
    """Receipts of three tenants, of which one is nobody and one is out for trouble."""
    receipts = [
        receipt_of("a1", price=price("0.25")),
        receipt_of("a2", price=price("0.5", "EUR"), cause=Cause.COMPLETED),
        receipt_of("b1", tags={"tenant": MARKUP}, model=MARKUP, detail=MARKUP),
        receipt_of(
            "c1",
            tags={},
            price=Price(unpriced=Unpriced.UNKNOWN_MODEL),
            provider="ollama",
            opened_us=OPENED_US + 40 * 86_400_000_000,
            output=Count.at_least(3, CountSource.CHUNKS),
        ),
    ]
    keep(ledger, *receipts)
    StreamReceipt.objects.bulk_create(map(row_of, receipts))
    return receipts


class _Text(HTMLParser):
    """The rows of the tables of a page, and whether its tags are in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self._cell: list[str] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"} and self.rows:
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"} and self._cell is not None:
            self.rows[-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)


def _rows(page: str) -> list[list[str]]:
    return _Text(page).rows


def _get(client: Client, url: str) -> str:
    answer = client.get(url)
    assert answer.status_code == 200, (answer.status_code, answer.content[:300])
    return str(answer.content.decode())


def _listed(client: Client, query: str = "") -> set[str]:
    answer = client.get(LIST + query)
    assert answer.status_code == 200
    return {row.pk for row in answer.context["cl"].result_list}


@pytest.mark.usefixtures("some")
def test_the_list_says_what_each_stream_was(client: Client) -> None:
    """Cause with its category's class, tokens with source, price or why there is none, and what the ledger says."""
    page = _get(client, LIST)
    found = {(row[2], row[1]): row for row in _rows(page) if len(row) == 10}
    assert found["acme", "COMPLETED"] == [
        "2023-11-14 22:13:20",
        "COMPLETED",
        "acme",
        "openai",
        "gpt-5-nano",
        "11 (provider_final)",
        "9 (provider_final)",
        "0.50 EUR",
        "1.50 s",
        "as in the ledger",
    ]
    assert found["acme", "CLIENT_DISCONNECT"][7] == "0.25 USD"
    assert found["-", "CLIENT_DISCONNECT"][6:8] == [">=3 (chunks)", "unpriced unknown_model"]
    assert 'class="streamguard-cause streamguard-completed"' in page
    assert page.count("as in the ledger") == 4


@pytest.mark.usefixtures("some")
def test_totals_by_tenant_follow_the_filters(client: Client) -> None:
    """Tokens, money by currency and the count; what is unpriced is said to be, and never $0 (G12)."""
    totals = {row[0]: row[1:] for row in _rows(_get(client, LIST)) if len(row) == 5}
    assert totals["acme"] == ["2", "22", "18", "0.50 EUR and 0.25 USD"]
    assert totals["(none)"] == ["1", "11", "unknown", "unpriced"]
    assert totals["All"] == ["4", "44", "27 (+ 1 unknown)", "0.50 EUR and 0.25 USD (+ 2 unpriced)"]
    narrowed = {
        row[0]: row[1:] for row in _rows(_get(client, LIST + "?cause=COMPLETED")) if len(row) == 5
    }
    assert narrowed["All"] == ["1", "11", "9", "0.50 EUR"]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("?cause=COMPLETED", {"a2"}),
        ("?category=user", {"a1", "b1", "c1"}),
        ("?provider=ollama", {"c1"}),
        ("?model=gpt-5-nano&tenant=acme", {"a1", "a2"}),
        ("?tenant=", {"c1"}),
        ("?tenant=nobody+we+know", set()),
        ("?opened_at__gte=2023-12-01+00%3A00%3A00%2B00%3A00", {"c1"}),
        ("?q=a", {"a1", "a2"}),
        ("?q=req-b1", {"b1"}),
        ("?q=1", set()),
    ],
)
@pytest.mark.usefixtures("some")
def test_the_list_is_narrowed_and_searched(client: Client, query: str, ids: set[str]) -> None:
    """By cause, category, provider, model, tenant and date; by the beginning of a stream's or a request's id."""
    assert _listed(client, query) == ids


@pytest.mark.usefixtures("some")
def test_markup_in_a_receipt_is_text(client: Client) -> None:
    """Tenants, models and details come from anywhere; no page makes a tag of them."""
    pages = [LIST, f"{LIST}b1/change/", f"{LIST}?tenant=%3Cscript%3Ealert(1)"]
    for page in (_get(client, url) for url in pages):
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page


@pytest.mark.usefixtures("some")
def test_one_receipt_is_shown_whole(client: Client) -> None:
    """All of its record, its instants in UTC, and nothing to type into or to send."""
    page = _get(client, f"{LIST}a1/change/")
    for text in ("CLIENT_DISCONNECT", "req-a1", "0.25 USD", "as in the ledger", "first_chunk_ns"):
        assert text in page
    assert "2023" in page
    form = page.partition('id="streamreceipt_form"')[2].partition("</form>")[0]
    assert not re.search(r"<(textarea|select)|type=\"(text|submit)\"", form)


@pytest.mark.usefixtures("some")
def test_nobody_can_change_anything(client: Client) -> None:
    """Not even who may do everything: no add, no change, no delete, no action."""
    before = list(StreamReceipt.objects.values())
    assert client.get(f"{LIST}add/").status_code == 403
    assert client.post(f"{LIST}a1/change/", {"cause": "COMPLETED"}).status_code == 403
    assert client.post(f"{LIST}a1/delete/", {"post": "yes"}).status_code == 403
    client.post(LIST, {"action": "delete_selected", "_selected_action": ["a1"], "post": "yes"})
    assert list(StreamReceipt.objects.values()) == before
    assert [
        one.codename for one in Permission.objects.filter(content_type__app_label="streamguard")
    ] == ["view_streamreceipt"]


@pytest.mark.usefixtures("some")
def test_only_who_may_see_receipts_sees_them() -> None:
    """The one permission there is: without it neither the list nor the verification."""
    user = User.objects.create_user("clerk", is_staff=True)
    client = Client()
    client.force_login(user)
    for url in (LIST, f"{LIST}a1/change/", f"{LIST}verify/"):
        assert client.get(url).status_code == 403
    assert client.post(f"{LIST}verify/").status_code == 403
    user.user_permissions.add(Permission.objects.get(codename="view_streamreceipt"))
    for url in (LIST, f"{LIST}a1/change/", f"{LIST}verify/"):
        assert client.get(url).status_code == 200


@pytest.mark.usefixtures("some")
def test_a_row_that_differs_is_said_in_the_list_and_by_the_verification(client: Client) -> None:
    """Changed and invented rows stand out; the verification says which and how, and OK when all is well."""
    assert "OK: every record" in client.post(f"{LIST}verify/").content.decode()
    StreamReceipt.objects.filter(pk="a1").update(tenant="other")
    StreamReceipt.objects.bulk_create([row_of(receipt_of("invented"))])
    page = _get(client, LIST)
    assert "not what the ledger says in tenant" in page
    assert "the ledger knows nothing of it" in page
    verdict = client.post(f"{LIST}verify/").content.decode()
    assert "NOT OK" in verdict
    assert "stream a1: not what the ledger says in tenant" in verdict
    assert "stream invented: the ledger knows nothing of it" in verdict
    StreamReceipt.objects.filter(pk__in=("a1", "invented")).delete()
    assert "INCOMPLETE" in client.post(f"{LIST}verify/").content.decode()


@pytest.mark.usefixtures("some")
def test_looking_at_the_page_verifies_nothing(client: Client) -> None:
    """A verification may take long: it is asked for, and a link that is fetched early is no question."""
    assert "every record of the ledger is as it was written" not in _get(client, f"{LIST}verify/")


@pytest.mark.usefixtures("some")
def test_a_ledger_that_cannot_be_read_is_said(client: Client, ledger: SQLiteLedger) -> None:
    """The list is there all the same, with what is known: none set, a wrong setting, a folder that is gone."""
    shutil.rmtree(ledger.path / "writers")
    assert "cannot be read: " in _get(client, LIST)
    assert "restore it from a backup" in client.post(f"{LIST}verify/").content.decode()
    with override_settings(STREAMGUARD={}):
        assert "no ledger to compare with" in _get(client, LIST)
        assert "Cannot verify: STREAMGUARD has no" in client.post(f"{LIST}verify/").content.decode()
    with override_settings(STREAMGUARD={"LEDGER": 3}):
        assert "cannot be read: " in _get(client, LIST)


@pytest.mark.usefixtures("some")
def test_the_pages_can_be_read_by_machines_that_read_aloud(client: Client) -> None:
    """Tables have captions and heads with a scope, verdicts a role, and no colour is the only sign."""
    page = _get(client, LIST)
    totals = page.partition("streamguard-totals")[2].partition("</table>")[0]
    assert "<caption>Totals by tenant" in totals
    assert totals.count('scope="col"') == 5
    assert totals.count('scope="row"') == 4
    assert 'role="status"' in client.post(f"{LIST}verify/").content.decode()


def test_an_empty_table_and_damaged_rows_are_shown(client: Client) -> None:
    """No receipt yet, or one whose JSON somebody broke, or whose category nobody knows: no traceback."""
    assert "Totals by tenant" not in _get(client, LIST)
    row = row_of(receipt_of("odd"))
    row.record, row.category, row.opened_at, row.duration = "{", '"><b>', None, None
    row.save()
    assert "unknown" in _get(client, LIST)
    assert "<b>" not in _get(client, LIST).partition("result_list")[2]
    assert "{" in _get(client, f"{LIST}odd/change/")


def test_every_category_has_a_colour() -> None:
    """The style sheet is found, and names those that are not simply bad."""
    sheet = Path(finders.find("streamguard_django/admin.css")).read_text("utf-8")
    named = {one for one in map(str, Category) if f".streamguard-{one}" in sheet}
    assert named == {"completed", "user", "shutdown", "operator", "policy"}
