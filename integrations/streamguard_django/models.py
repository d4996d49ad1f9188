"""Receipts as rows: a copy of what the ledger holds, for the admin and for SQL."""

from __future__ import annotations

import json
from typing import Any, Final

from django.db import models
from django.db.models import Q

from streamguard_core import price_text
from streamguard_django.amounts import AmountField

_WORD: Final = 64
_NAME: Final = 200


def _tokens() -> Any:
    """A number of tokens; NULL where nobody knows it."""
    return models.BigIntegerField(null=True, blank=True)


def _word(length: int = _WORD, **options: Any) -> Any:
    """A word; empty where there is none."""
    return models.CharField(max_length=length, blank=True, **options)


class StreamReceipt(models.Model):
    """The receipt of one stream. It is a copy: the ledger is the evidence, and `streamguard_verify` compares.

    Unknown is NULL, never 0 (G12): a stream without a price has no `cost`, and `unpriced` says why. There is no prompt
    and no answer in it.

    Attributes:
        stream_id: the stream; a receipt that comes twice is one row.
        cause, category, party, detail: why it ended, and who is behind it.
        finish: what the provider said at its end.
        produced, committed, consumed, late: chunks.
        input_tokens, output_tokens: with `_lower`, `_upper` and `_source`, as on the receipt.
        waste_tokens: generated and never delivered.
        prevented_at_most: never generated because the stream was cut off; an upper bound.
        attempts: calls to providers.
        cost: what they cost together, in `currency`, a `Decimal` with 12 places.
        opened_at, first_chunk_at, cutoff_at, sealed_at: instants in UTC; differences are measured by `duration` only.
        recovered: a later process wrote this receipt in the place of one that was killed.
        writer, seq: where the receipt stands in the ledger, as soon as somebody has looked (`streamguard_mirror`).
        record: the whole receipt as JSON, as ledgers keep it.
    """

    stream_id = models.CharField(max_length=255, primary_key=True)
    cause = _word()
    category = _word()
    party = _word()
    detail = _word(255)
    finish = _word()
    client_left_early = models.BooleanField(default=False)
    close = _word()
    provider = _word(_NAME)
    model = _word(_NAME)
    request_id = _word(_NAME, db_index=True)
    tenant = _word(_NAME)
    route = _word(_NAME)
    produced = _tokens()
    committed = _tokens()
    consumed = _tokens()
    late = _tokens()
    input_tokens = _tokens()
    input_lower = _tokens()
    input_upper = _tokens()
    input_source = _word()
    output_tokens = _tokens()
    output_lower = _tokens()
    output_upper = _tokens()
    output_source = _word()
    waste_tokens = _tokens()
    prevented_at_most = _tokens()
    attempts = models.BigIntegerField(null=True, blank=True)
    cost: Any = AmountField(null=True, blank=True)
    cost_lower: Any = AmountField(null=True, blank=True)
    cost_upper: Any = AmountField(null=True, blank=True)
    currency = _word(3)
    unpriced = _word()
    opened_at = models.DateTimeField(null=True, blank=True, db_index=True)
    first_chunk_at = models.DateTimeField(null=True, blank=True)
    cutoff_at = models.DateTimeField(null=True, blank=True)
    sealed_at = models.DateTimeField(null=True, blank=True)
    duration = models.DurationField(null=True, blank=True)
    recovered = models.BooleanField(default=False)
    writer = _word()
    seq = models.BigIntegerField(null=True, blank=True)
    record = models.TextField()

    class Meta:
        """A receipt is seen and never changed: there is no permission for anything else."""

        app_label = "streamguard"
        verbose_name = "receipt"
        ordering = ("-opened_at", "-stream_id")
        default_permissions = ("view",)
        indexes = (
            models.Index(fields=("tenant", "opened_at"), name="streamguard_tenant"),
            models.Index(fields=("cause", "opened_at"), name="streamguard_cause"),
            models.Index(fields=("provider", "model", "opened_at"), name="streamguard_model"),
        )
        constraints = (
            # Unpriced is a state, and no price is 0 for want of a better one.
            models.CheckConstraint(
                condition=(Q(cost__isnull=True) & ~Q(unpriced=""))
                | (Q(cost__isnull=False) & Q(unpriced="") & ~Q(currency="")),
                name="streamguard_priced_or_not",
            ),
        )

    def __str__(self) -> str:
        return f"{self.stream_id} {self.cause}"

    @property
    def data(self) -> dict[str, Any]:
        """What `record` says.

        Raises:
            ValueError: when somebody damaged it.
        """
        found = json.loads(self.record)
        if not isinstance(found, dict):
            raise ValueError("it is no map")
        return found

    @property
    def price(self) -> str:
        """What it cost as people read it, with its bounds; `unpriced` with the reason, never 0."""
        amounts = {"total": self.cost, "lower": self.cost_lower, "upper": self.cost_upper}
        known = {name: f"{value:.12f}" for name, value in amounts.items() if value is not None}
        state = {"unpriced": self.unpriced} if self.cost is None else {}
        return price_text({**known, **state, "currency": self.currency})
