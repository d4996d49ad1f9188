"""Rows of providers, tables of them, and the receipt of a reader who leaves."""

from __future__ import annotations

from datetime import date

from streamguard_core import (
    Count,
    CountSource,
    OnClose,
    Receipt,
    StreamSession,
    Termination,
)
from streamguard_core.testing import (
    emit,
    settled,
    wait,
)

STOPS = Termination(provider="openai", on_close=OnClose.STOPS_BILLING)


BILLS = Termination(
    provider="aws-bedrock",
    on_close=OnClose.BILLS_FULL,
    valid_from=date(2026, 3, 1),
    table="2026-11-28",
)


DOUBT = Termination(provider="google", on_close=OnClose.UNKNOWN)


TICKS = [step for _ in range(100) for step in (emit("xy"), wait(1))]


NOTHING = Count.exact(0, CountSource.CHUNKS)


async def left(session: StreamSession) -> Receipt:
    """The receipt of a stream whose reader leaves when everything stands still."""
    session.start()
    await settled()
    session.disconnected("left")
    return await session.receipt()


class Table:
    """Finds rows by model; writes down what it is asked."""

    def __init__(self, **rows: Termination) -> None:
        self.rows = rows
        self.asked: list[tuple[str | None, str | None, date, str | None]] = []

    def row(
        self, provider: str | None, model: str | None, at: date, *, route: str | None = None
    ) -> Termination:
        self.asked.append((provider, model, at, route))
        return self.rows[model or ""]
