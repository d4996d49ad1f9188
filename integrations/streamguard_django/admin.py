"""Receipts in the admin: to be seen, searched, added up and verified, and never changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import DatabaseError
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html

from streamguard_core import Category, Cause, LedgerError, count_text
from streamguard_django.filters import Tenants, known, present
from streamguard_django.matching import (
    NoLedger,
    by_stream,
    differences,
    match,
    readable_ledger,
)
from streamguard_django.models import StreamReceipt
from streamguard_django.spending import grand_total, totals

_TENANTS: Final = 50
_SHOWN: Final = 50


@admin.register(StreamReceipt)
class StreamReceiptAdmin(admin.ModelAdmin):
    """A list with totals by tenant, one receipt with what the ledger says of it, and a verification of everything."""

    list_display = (
        "opened",
        "cause_shown",
        "tenant",
        "provider",
        "model",
        "input_shown",
        "output_shown",
        "price_shown",
        "duration_shown",
        "ledger_shown",
    )
    list_filter = (
        known("cause", Cause),
        known("category", Category),
        present("provider"),
        present("model"),
        Tenants,
        ("opened_at", admin.DateFieldListFilter),
    )
    search_fields = ("^stream_id", "^request_id")
    search_help_text = "The beginning of a stream's id, or of a provider's request id."
    list_per_page = 50
    show_full_result_count = False
    fieldsets = (
        (
            None,
            {"fields": ("stream_id", "cause_shown", "detail", "party", "finish", "ledger_shown")},
        ),
        ("Whose", {"fields": ("tenant", "route", "provider", "model", "request_id", "attempts")}),
        ("Chunks", {"fields": ("produced", "committed", "consumed", "late", "close")}),
        (
            "Tokens and money",
            {
                "fields": (
                    "input_shown",
                    "output_shown",
                    "waste_tokens",
                    "prevented_at_most",
                    "price_shown",
                )
            },
        ),
        (
            "Instants (UTC)",
            {"fields": ("opened_at", "first_chunk_at", "cutoff_at", "sealed_at", "duration_shown")},
        ),
        (
            "The whole receipt",
            {"classes": ("collapse",), "fields": ("writer", "seq", "record_shown")},
        ),
    )

    class Media:
        """Colours, which only repeat what stands in words."""

        css: Final = {"all": ("streamguard_django/admin.css",)}

    def has_add_permission(self, request: Any) -> bool:
        """A receipt is made by a stream."""
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        """A receipt is never edited."""
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        """A receipt is never dropped."""
        return False

    def get_urls(self) -> list[Any]:
        """The page that verifies comes before the one of a receipt with that id."""
        verify = self.admin_site.admin_view(self.verify_view)
        return [path("verify/", verify, name="streamguard_verify"), *super().get_urls()]

    def get_changelist_instance(self, request: Any) -> Any:
        """The list, with what the ledger says of the rows that are on the page."""
        found = super().get_changelist_instance(request)
        found.result_list = list(found.result_list)
        _compare(found.result_list)
        return found

    def changelist_view(self, request: Any, extra_context: Any = None) -> Any:
        """The list, with totals of what it is narrowed to."""
        response = super().changelist_view(request, extra_context)
        context = getattr(response, "context_data", None) or {}
        if "cl" in context:
            groups = totals(context["cl"].queryset, ("tenant",))
            context["tenants"] = groups[:_TENANTS]
            context["tenants_beyond"] = len(groups) - _TENANTS
            context["total"] = grand_total(groups)
        return response

    def get_object(self, request: Any, object_id: str, from_field: Any = None) -> Any:
        """One receipt, with what the ledger says of it."""
        found = super().get_object(request, object_id, from_field)
        if found is not None:
            _compare([found])
        return found

    def verify_view(self, request: Any) -> Any:
        """Ask, and on POST verify the ledger and every row: that may take long.

        Raises:
            PermissionDenied: for whoever may not see receipts.
        """
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "title": "Verify the ledger and all receipts",
            "opts": self.model._meta,  # noqa: SLF001 - Django's interface
            "back": reverse(f"{self.admin_site.name}:streamguard_streamreceipt_changelist"),
            **(_verified() if request.method == "POST" else {}),
        }
        return TemplateResponse(request, "admin/streamguard/streamreceipt/verify.html", context)

    @admin.display(description="opened (UTC)", ordering="opened_at")
    def opened(self, row: StreamReceipt) -> str:
        """When, to the second."""
        return f"{row.opened_at:%Y-%m-%d %H:%M:%S}" if row.opened_at else "unknown"

    @admin.display(description="cause", ordering="cause")
    def cause_shown(self, row: StreamReceipt) -> Any:
        """The cause in the colour of its category, which is only a second sign."""
        category = row.category if row.category in set(Category) else "system"
        return format_html(
            '<span class="streamguard-cause streamguard-{}" title="category: {}">{}</span>',
            category,
            row.category,
            row.cause or "unknown",
        )

    @admin.display(description="input tokens", ordering="input_tokens")
    def input_shown(self, row: StreamReceipt) -> str:
        """With bounds and source; unknown where nobody knows."""
        return _tokens(row, "input")

    @admin.display(description="output tokens", ordering="output_tokens")
    def output_shown(self, row: StreamReceipt) -> str:
        """With bounds and source; unknown where nobody knows."""
        return _tokens(row, "output")

    @admin.display(description="price", ordering="cost")
    def price_shown(self, row: StreamReceipt) -> str:
        """With bounds; unpriced where there is none, never 0."""
        return row.price

    @admin.display(description="took", ordering="duration")
    def duration_shown(self, row: StreamReceipt) -> str:
        """From opening to seal, by the stream's own clock."""
        return "unknown" if row.duration is None else f"{row.duration.total_seconds():.2f} s"

    @admin.display(description="ledger")
    def ledger_shown(self, row: StreamReceipt) -> Any:
        """Whether the row says what the ledger says."""
        good, text = getattr(row, "ledger_state", (None, "not compared"))
        sign = {True: "good", False: "bad", None: "unknown"}[good]
        return format_html('<span class="streamguard-ledger-{}">{}</span>', sign, text)

    @admin.display(description="record")
    def record_shown(self, row: StreamReceipt) -> Any:
        """The whole receipt, laid out for reading."""
        try:
            text = json.dumps(row.data, indent=2, ensure_ascii=False)
        except ValueError:
            text = row.record
        return format_html("<pre>{}</pre>", text)


def _tokens(row: StreamReceipt, name: str) -> str:
    count = {
        part: getattr(row, f"{name}_{column}")
        for part, column in (("value", "tokens"), ("lower", "lower"), ("upper", "upper"))
    }
    source = getattr(row, f"{name}_source")
    text = count_text(count)
    return text if source in {"", "none"} else f"{text} ({source})"


def _compare(rows: Sequence[Any]) -> None:
    """Note on each row whether it says what the ledger says."""
    try:
        stored = by_stream(readable_ledger(), [row.pk for row in rows])
    except NoLedger:
        states = dict.fromkeys((row.pk for row in rows), (None, "no ledger to compare with"))
    except (LedgerError, ImproperlyConfigured) as error:
        states = dict.fromkeys((row.pk for row in rows), (None, f"cannot be read: {error}"))
    else:
        what = {row.pk: differences(row, stored.get(row.pk)) for row in rows}
        states = {key: (not one, one or "as in the ledger") for key, one in what.items()}  # type: ignore[misc]
    for row in rows:
        row.ledger_state = states[row.pk]


def _verified() -> dict[str, Any]:
    """What the page says after a verification."""
    try:
        ledger = readable_ledger()
        report, rows = ledger.verify(), match(ledger)
    except (LedgerError, ImproperlyConfigured, DatabaseError) as error:
        return {"trouble": str(error)}
    wrong = [*report.problems, *rows.different]
    lacking = [*report.unknown, *report.incomplete, *rows.missing]
    return {
        "verified": True,
        "whole": not wrong and not lacking,
        "wrong": wrong[:_SHOWN],
        "wrong_beyond": len(wrong) - _SHOWN,
        "lacking": lacking[:_SHOWN],
        "lacking_beyond": len(lacking) - _SHOWN,
        "rows": rows,
        "not_checked": report.not_checked,
    }
