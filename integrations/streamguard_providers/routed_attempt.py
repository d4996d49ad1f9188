"""One attempt of a routed stream: what its producer reports is passed on, and booked whatever happens."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from streamguard_core import (
    AnyChunk,
    Attempt,
    AttemptOutcome,
    AttemptRole,
    Report,
    TruncatedStream,
    Usage,
)
from streamguard_providers.attempts import Spent, error_word
from streamguard_providers.breaker import Permit
from streamguard_providers.producers import HTTPProducer
from streamguard_providers.route import RouteState
from streamguard_providers.seam import Seam


class AttemptReport:
    """The report of one attempt. Until it leads the stream, what it says of the stream is kept back.

    Args:
        report: the stream's.
        spent: what the calls of the stream have used.
        role: why the attempt is made.
        state: of its route.
    """

    def __init__(self, report: Report, spent: Spent, role: AttemptRole, state: RouteState) -> None:
        self._report = report
        self._spent = spent
        self._role = role
        self._route = state.route
        self._leads = False
        self._kept: list[Callable[[], None]] = []
        self._closers: list[Callable[[], None]] = []
        self._was_cut = False
        self.reason: str | None = None
        self.usage: Usage | None = None
        self.booked = False
        self.connected = report.connected
        self.wanted: Callable[[], bool] | None = getattr(report, "wanted", None)

    def lead(self) -> None:
        """This attempt is the stream's now: pass on what it said so far, and says."""
        self._leads = True
        kept, self._kept = self._kept, []
        for say in kept:
            say()

    def cut(self) -> None:
        """Close the attempt's transport, in this step."""
        self._was_cut = True
        closers, self._closers = self._closers, []
        for closer in closers:
            closer()

    def finish(self, reason: str | None = None, usage: Usage | None = None) -> None:
        """See `Report`."""
        self.reason, self.usage = reason or self.reason, usage or self.usage
        self._say(lambda: self._report.finish(reason, usage))

    def identify(self, *, model: str | None = None, request_id: str | None = None) -> None:
        """See `Report`."""
        self._say(lambda: self._report.identify(model=model, request_id=request_id))

    def attempt(self, attempt: Attempt) -> None:
        """See `Report`; the role is the router's."""
        self.booked = True
        first = attempt.role is AttemptRole.FIRST
        booked = msgspec.structs.replace(
            attempt,
            role=self._role if first else attempt.role,
            provider=attempt.provider or self._route.provider,
            model=attempt.model or self._route.model,
        )
        self._spent.enter(booked)
        self._report.attempt(booked)

    def on_close(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `Report`; also called when this attempt alone is cut off."""
        if self._was_cut:
            callback()
            return lambda: None
        undo = self._report.on_close(callback)
        self._closers.append(callback)

        def leave() -> None:
            undo()
            if callback in self._closers:
                self._closers.remove(callback)

        return leave

    def _say(self, say: Callable[[], None]) -> None:
        if self._leads:
            say()
        else:
            self._kept.append(say)


class RoutedAttempt:
    """One attempt while it runs.

    Args:
        state: of its route.
        producer: makes its chunks.
        report: its own.
        role: why it is made.
        permit: of the route's breaker.
        seam: joins its chunks to the text so far.
        began: its instant on the router's clock.
    """

    def __init__(
        self,
        state: RouteState,
        producer: Any,
        report: AttemptReport,
        *,
        role: AttemptRole,
        permit: Permit,
        seam: Seam,
        began: float,
    ) -> None:
        self.state = state
        self.producer = producer
        self.report = report
        self.permit = permit
        self.began = began
        self._role = role
        self._seam = seam
        # Asked for in `next`: where even that raises, the attempt has failed, and hands its permit back.
        self._batches: Any = None
        self._started_ns = time.monotonic_ns()
        self._chunks = 0
        self._error: Exception | None = None
        self._ended = False

    async def next(self) -> list[AnyChunk] | None:
        """What the next read brings that is new to the reader; None at the end.

        Raises:
            Exception: what the producer raises.
        """
        while not self._ended:
            try:
                if self._batches is None:
                    self._batches = self.producer.stream(report=self.report)
                batch = await anext(self._batches)
            except StopAsyncIteration:
                self._ended = True
                return self._seam.end() or None
            except Exception as error:
                self._error = error
                raise
            self._chunks += len(batch)
            if fresh := self._seam.pass_on(batch):
                return fresh
        return None

    async def close(self) -> None:
        """Let go of the producer; book the attempt if the producer did not."""
        try:
            close = getattr(self._batches, "aclose", None)
            if close is not None:
                await close()
        finally:
            self.book()

    def book(self) -> None:
        """Book the attempt as it is, if its producer did not."""
        # Our own producers book what they have sent, and nothing where nothing was sent.
        if not self.report.booked and not isinstance(self.producer, HTTPProducer):
            self.report.attempt(self._attempt())

    @property
    def tokens(self) -> int:
        """Tokens it has generated, as far as is known; a chunk counts for one where nobody says."""
        usage = self.report.usage
        return max(self._chunks, 0 if usage is None else usage.output.lower)

    def _attempt(self) -> Attempt:
        error = self._error
        return Attempt(
            role=self._role,
            outcome=self._outcome(),
            started_ns=self._started_ns,
            closed_ns=time.monotonic_ns(),
            cut=not self._ended and error is None,
            chunks=self._chunks,
            finish=self.report.reason,
            error=None if error is None else error_word(error),
            usage=self.report.usage,
        )

    def _outcome(self) -> AttemptOutcome:
        if self._error is not None:
            truncated = isinstance(self._error, TruncatedStream)
            return AttemptOutcome.TRUNCATED if truncated else AttemptOutcome.FAILED
        return AttemptOutcome.COMPLETED if self._ended else AttemptOutcome.CUT
