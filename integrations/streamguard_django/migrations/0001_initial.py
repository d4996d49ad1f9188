"""The table of receipts."""

from typing import Any, ClassVar

from django.db import migrations, models

import streamguard_django.amounts


class Migration(migrations.Migration):
    """Adds `StreamReceipt`."""

    initial = True
    dependencies: ClassVar[list[Any]] = []
    operations: ClassVar[list[Any]] = [
        migrations.CreateModel(
            name="StreamReceipt",
            fields=[
                ("stream_id", models.CharField(max_length=255, primary_key=True, serialize=False)),
                ("cause", models.CharField(blank=True, max_length=64)),
                ("category", models.CharField(blank=True, max_length=64)),
                ("party", models.CharField(blank=True, max_length=64)),
                ("detail", models.CharField(blank=True, max_length=255)),
                ("finish", models.CharField(blank=True, max_length=64)),
                ("client_left_early", models.BooleanField(default=False)),
                ("close", models.CharField(blank=True, max_length=64)),
                ("provider", models.CharField(blank=True, max_length=200)),
                ("model", models.CharField(blank=True, max_length=200)),
                ("request_id", models.CharField(blank=True, db_index=True, max_length=200)),
                ("tenant", models.CharField(blank=True, max_length=200)),
                ("route", models.CharField(blank=True, max_length=200)),
                ("produced", models.BigIntegerField(blank=True, null=True)),
                ("committed", models.BigIntegerField(blank=True, null=True)),
                ("consumed", models.BigIntegerField(blank=True, null=True)),
                ("late", models.BigIntegerField(blank=True, null=True)),
                ("input_tokens", models.BigIntegerField(blank=True, null=True)),
                ("input_lower", models.BigIntegerField(blank=True, null=True)),
                ("input_upper", models.BigIntegerField(blank=True, null=True)),
                ("input_source", models.CharField(blank=True, max_length=64)),
                ("output_tokens", models.BigIntegerField(blank=True, null=True)),
                ("output_lower", models.BigIntegerField(blank=True, null=True)),
                ("output_upper", models.BigIntegerField(blank=True, null=True)),
                ("output_source", models.CharField(blank=True, max_length=64)),
                ("waste_tokens", models.BigIntegerField(blank=True, null=True)),
                ("prevented_at_most", models.BigIntegerField(blank=True, null=True)),
                ("attempts", models.BigIntegerField(blank=True, null=True)),
                ("cost", streamguard_django.amounts.AmountField(blank=True, null=True)),
                ("cost_lower", streamguard_django.amounts.AmountField(blank=True, null=True)),
                ("cost_upper", streamguard_django.amounts.AmountField(blank=True, null=True)),
                ("currency", models.CharField(blank=True, max_length=3)),
                ("unpriced", models.CharField(blank=True, max_length=64)),
                ("opened_at", models.DateTimeField(blank=True, db_index=True, null=True)),
                ("first_chunk_at", models.DateTimeField(blank=True, null=True)),
                ("cutoff_at", models.DateTimeField(blank=True, null=True)),
                ("sealed_at", models.DateTimeField(blank=True, null=True)),
                ("duration", models.DurationField(blank=True, null=True)),
                ("recovered", models.BooleanField(default=False)),
                ("writer", models.CharField(blank=True, max_length=64)),
                ("seq", models.BigIntegerField(blank=True, null=True)),
                ("record", models.TextField()),
            ],
            options={
                "verbose_name": "receipt",
                "ordering": ("-opened_at", "-stream_id"),
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(fields=["tenant", "opened_at"], name="streamguard_tenant"),
                    models.Index(fields=["cause", "opened_at"], name="streamguard_cause"),
                    models.Index(
                        fields=["provider", "model", "opened_at"], name="streamguard_model"
                    ),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("cost__isnull", True), models.Q(("unpriced", ""), _negated=True)
                            ),
                            models.Q(
                                ("cost__isnull", False),
                                ("unpriced", ""),
                                models.Q(("currency", ""), _negated=True),
                            ),
                            _connector="OR",
                        ),
                        name="streamguard_priced_or_not",
                    )
                ],
            },
        ),
    ]
