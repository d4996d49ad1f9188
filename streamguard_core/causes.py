"""Why streams end: causes, their categories, the party behind each, and the signal that carries one."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

MAX_DETAIL: Final = 200
"""Longest detail kept, in characters. Details are for people; they are cut, never refused."""


class Category(StrEnum):
    """The group a cause belongs to. The set is closed: reports may switch over it."""

    # Enum's own hash is Python code, and that of the name: not equal to that of the equal string.
    __hash__ = str.__hash__

    COMPLETED = "completed"
    USER = "user"
    CONSUMER = "consumer"
    SHUTDOWN = "shutdown"
    OPERATOR = "operator"
    TIMEOUT = "timeout"
    POLICY = "policy"
    PRODUCER = "producer"
    SYSTEM = "system"


class Party(StrEnum):
    """Who caused something. Completion is nobody's, so it has no party."""

    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"
    APPLICATION = "APPLICATION"
    POLICY = "POLICY"
    SERVER = "SERVER"
    CLOCK = "CLOCK"


class Cause(StrEnum):
    """Why a stream ended. Exactly one is fixed at the cutoff and never replaced (G8).

    >>> Cause.CLIENT_DISCONNECT.category
    <Category.USER: 'user'>
    """

    __hash__ = str.__hash__

    COMPLETED = "COMPLETED"
    CLIENT_DISCONNECT = "CLIENT_DISCONNECT"
    USER_CANCEL = "USER_CANCEL"
    CONSUMER_STALLED = "CONSUMER_STALLED"
    CONSUMER_ERROR = "CONSUMER_ERROR"
    SHUTDOWN = "SHUTDOWN"
    OPERATOR_CANCEL = "OPERATOR_CANCEL"
    TIMEOUT_CONNECT = "TIMEOUT_CONNECT"
    TIMEOUT_FIRST_TOKEN = "TIMEOUT_FIRST_TOKEN"
    TIMEOUT_IDLE = "TIMEOUT_IDLE"
    TIMEOUT_TOTAL = "TIMEOUT_TOTAL"
    GUARDRAIL = "GUARDRAIL"
    BUDGET = "BUDGET"
    PRODUCER_ERROR = "PRODUCER_ERROR"
    PRODUCER_OVERRUN = "PRODUCER_OVERRUN"
    TRUNCATED = "TRUNCATED"
    CRASHED = "CRASHED"
    INTERNAL_ERROR = "INTERNAL_ERROR"

    @property
    def category(self) -> Category:
        """The group this cause is reported under."""
        return _CATEGORY[self]

    @property
    def party(self) -> Party | None:
        """Who is behind this cause unless the caller names somebody else; None for completion (G14)."""
        return _PARTY[_CATEGORY[self]]


class Signal(msgspec.Struct, frozen=True, gc=False):
    """Something that wanted the stream to end, with its instant on the session's clock.

    The first one with authority is the terminal one; all are kept, in order, as history (G8).
    """

    cause: Cause
    party: Party | None
    detail: str
    at_ns: int
    intent: bool = False
    """True for a wish (a disconnect under `grace`) that the policy did not turn into authority."""

    @property
    def category(self) -> Category:
        """The category of `cause`."""
        return self.cause.category


def shorten(detail: str) -> str:
    """Cut a detail to `MAX_DETAIL` characters and to one line: receipts are no place for bodies."""
    if not detail:
        return detail
    line = " ".join(detail.split())
    return line if len(line) <= MAX_DETAIL else line[: MAX_DETAIL - 3] + "..."


_CATEGORY: Final = {
    Cause.COMPLETED: Category.COMPLETED,
    Cause.CLIENT_DISCONNECT: Category.USER,
    Cause.USER_CANCEL: Category.USER,
    Cause.CONSUMER_STALLED: Category.CONSUMER,
    Cause.CONSUMER_ERROR: Category.CONSUMER,
    Cause.SHUTDOWN: Category.SHUTDOWN,
    Cause.OPERATOR_CANCEL: Category.OPERATOR,
    Cause.TIMEOUT_CONNECT: Category.TIMEOUT,
    Cause.TIMEOUT_FIRST_TOKEN: Category.TIMEOUT,
    Cause.TIMEOUT_IDLE: Category.TIMEOUT,
    Cause.TIMEOUT_TOTAL: Category.TIMEOUT,
    Cause.GUARDRAIL: Category.POLICY,
    Cause.BUDGET: Category.POLICY,
    Cause.PRODUCER_ERROR: Category.PRODUCER,
    Cause.PRODUCER_OVERRUN: Category.PRODUCER,
    Cause.TRUNCATED: Category.PRODUCER,
    Cause.CRASHED: Category.SYSTEM,
    Cause.INTERNAL_ERROR: Category.SYSTEM,
}

_PARTY: Final[dict[Category, Party | None]] = {
    Category.COMPLETED: None,
    Category.USER: Party.CONSUMER,
    Category.CONSUMER: Party.CONSUMER,
    Category.SHUTDOWN: Party.SERVER,
    Category.OPERATOR: Party.APPLICATION,
    Category.TIMEOUT: Party.CLOCK,
    Category.POLICY: Party.POLICY,
    Category.PRODUCER: Party.PRODUCER,
    Category.SYSTEM: Party.SERVER,
}
