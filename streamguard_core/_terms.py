"""On which terms a stream ends: the row that holds for its provider, the policy that follows, its place."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from streamguard_core._seal import Description
from streamguard_core.errors import UsageError
from streamguard_core.policies import ByProvider, DisconnectPolicy, DrainLimit
from streamguard_core.protocol import StreamProtocol
from streamguard_core.termination import Termination, TerminationLookup
from streamguard_core.transitions import DRAINING, RUNNING

logger = logging.getLogger("streamguard")


class Terms:
    """What a session was told about its ending.

    Args:
        rule: the policy that depends on the row, if there is one.
        given: the row, or the table to look it up in.
    """

    __slots__ = ("given", "place", "rule")

    def __init__(
        self, rule: ByProvider | None, given: Termination | TerminationLookup | None
    ) -> None:
        self.rule = rule
        self.given = given
        self.place: DrainLimit | None = None
        """Where the stream has a place for its drain, while it is drained."""


class SessionTerms:
    """The part of a session that knows what closing would save; the protocol is told what follows."""

    __slots__ = ("_about", "_producer", "_protocol", "_terms")

    _about: Description
    _open_written: bool
    _producer: Any
    _protocol: StreamProtocol
    _terms: Terms | None
    """None for the streams, most of them, that were told nothing special."""

    def _agree(
        self, policy: DisconnectPolicy | ByProvider, given: Termination | TerminationLookup | None
    ) -> DisconnectPolicy:
        """Keep what decides; returns the policy to begin with."""
        rule = policy if isinstance(policy, ByProvider) else None
        told = rule is not None or check_termination(given) is not None
        self._terms = Terms(rule, given) if told else None
        return policy.unknown if isinstance(policy, ByProvider) else policy

    def _agree_as(self, before: SessionTerms) -> None:
        """What a stream that goes on here was told of its row, where nothing else was said since."""
        given = None if before._terms is None else before._terms.given
        if self._terms is None:
            self._terms = None if given is None else Terms(None, given)
        elif self._terms.given is None:
            self._terms.given = given

    def _policies(self) -> tuple[DisconnectPolicy, ...]:
        """All that a disconnect may turn into."""
        rule = None if self._terms is None else self._terms.rule
        return (self._protocol.policy,) if rule is None else (rule.saves, rule.bills, rule.unknown)

    def _settle(self) -> None:
        """The policy that follows from the row, as far as provider and model are known by now."""
        if self._terms is not None and self._terms.rule is not None:
            self._protocol.policy = self._terms.rule.under(self._row())

    def _intend(self, detail: str, now_ns: int, unaccepted: int = 0) -> None:
        """The reader has left: decide on which terms, and tell the protocol (G9)."""
        protocol = self._protocol
        if self._terms is not None and self._terms.rule is not None and protocol.live:
            self._about.termination = self._row()
            self._settle()
        limit = protocol.policy.limit if protocol.producer is RUNNING else None
        if limit is None or not self._open_written:
            # Before the start there is no producer to read on, and so nothing that takes a place.
            protocol.disconnected(detail, now_ns, unaccepted)
            return
        may_drain = limit.enter()
        protocol.disconnected(detail, now_ns, unaccepted, may_drain=may_drain)
        if may_drain:
            self._terms = self._terms or Terms(None, None)
            self._terms.place = limit
            if protocol.producer is not DRAINING or protocol.client_left_early:
                # It was no drain after all, or a tail, which is short and asks for no place.
                self._give_place_back()

    def _give_place_back(self) -> None:
        """The drain is over."""
        terms = self._terms
        if terms is not None and terms.place is not None:
            place, terms.place = terms.place, None
            place.leave()

    def _row(self) -> Termination | None:
        """The row that holds for this stream: the one used before, the one given, or its producer's."""
        about, producer = self._about, self._producer
        given = None if self._terms is None else self._terms.given
        if about.termination is not None:
            return about.termination
        try:
            if given is None:
                row = getattr(producer, "termination", None)
            elif isinstance(given, Termination):
                row = given
            else:
                row = given.row(
                    about.provider or _said(producer, "provider"),
                    about.model or _said(producer, "model"),
                    datetime.fromtimestamp(about.opened_us / 1_000_000, UTC).date(),
                    route=_said(producer, "route"),
                )
        except Exception as error:
            # Whoever keeps the table must not keep the stream from ending.
            logger.warning("the row of a stream's provider: %s was raised", type(error).__name__)
            row = None
        return row if isinstance(row, Termination) else None


def check_termination(
    value: Termination | TerminationLookup | None,
) -> Termination | TerminationLookup | None:
    """Return `value` if rows can be had from it.

    Raises:
        UsageError: when it is neither a row nor a table.
    """
    if value is None or isinstance(value, Termination) or callable(getattr(value, "row", None)):
        return value
    raise UsageError(
        f"termination of type {type(value).__name__} was given; give a TerminationTable,"
        " or one row: Termination(provider=..., on_close=...)"
    )


def _said(producer: object, name: str) -> str | None:
    """What a producer says of itself; an SDK's own object may mean something else by that name."""
    value = getattr(producer, name, None)
    return value if isinstance(value, str) else None
