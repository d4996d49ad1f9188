"""What closing a provider's stream does to its bill: one row of a table that an integration keeps."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Protocol

import msgspec


class OnClose(StrEnum):
    """What a provider bills for a stream that is closed before its end."""

    STOPS_BILLING = "stops_billing"
    """What was generated up to the close; closing saves the rest."""
    BILLS_FULL = "bills_full"
    """The whole generation, whether or not anybody reads it; closing saves nothing."""
    UNKNOWN = "unknown"


class Termination(msgspec.Struct, frozen=True, kw_only=True):
    """One row: what closing does at a provider. Tables may say more; this is what decisions need.

    Args:
        provider: whose row it is.
        model: the pattern of models it holds for; `*` for all.
        route: the pattern of dialects it holds for, such as `openai-responses`; `*` for all.
        on_close: what is billed for a stream that is closed.
        valid_from: since when that is believed to hold.
        table: the version of the table it stands in.

    Example:
        >>> str(Termination(provider="aws-bedrock", on_close=OnClose.BILLS_FULL, table="2026-11-28"))
        'aws-bedrock * bills_full (table 2026-11-28)'
    """

    provider: str
    model: str = "*"
    route: str = "*"
    on_close: OnClose = OnClose.UNKNOWN
    valid_from: date | None = None
    table: str | None = None

    def __str__(self) -> str:
        """As the receipt names it."""
        route = "" if self.route == "*" else f" {self.route}"
        since = [] if self.valid_from is None else [f"valid from {self.valid_from.isoformat()}"]
        table = [] if self.table is None else [f"table {self.table}"]
        source = f" ({', '.join(since + table)})" if since or table else ""
        return f"{self.provider}{route} {self.model} {self.on_close}{source}"


class TerminationLookup(Protocol):
    """What finds the row of a stream; `streamguard_providers.TerminationTable` is one."""

    def row(
        self, provider: str | None, model: str | None, at: date, *, route: str | None = None
    ) -> Termination:
        """The row that holds for a call. Pure: the same question has the same answer.

        Args:
            provider: who is called; None where nobody has said.
            model: by the provider's name for it.
            at: the day of the call.
            route: the path of the API, where its ways to be called differ.
        """
