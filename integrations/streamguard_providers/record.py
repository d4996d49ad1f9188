"""The receipt of a provider call that belongs to no session: opened before the call, sealed after it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from streamguard_core import (
    Attempt,
    AttemptOutcome,
    Cause,
    LedgerError,
    RecordedStream,
    Scope,
)
from streamguard_providers.asked import Asked
from streamguard_providers.known import route_of
from streamguard_providers.termination import row_of_call

#: What the SDKs' own waits between two tries come on top of: busy machines are late.
_MARGIN_SECONDS: Final = 2.0
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 8.0
_LONGEST_ASKED: Final = 120.0
#: Statuses that clients follow to another URL, in a request of its own.
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
#: In the extensions of a redirected request, which its client hands on to the next one: its record.
REDIRECTED: Final = "streamguard.redirected"

Later = Callable[[float, Callable[[], None]], Callable[[], object]]
"""Calls something in so many seconds; returns what takes that back."""


def redirect_wait() -> float:
    """How long a client takes at most to follow a redirect, in seconds."""
    return _MARGIN_SECONDS


def retry_wait(tries: int, retry_after: float | None) -> float:
    """How long an SDK made by Stainless waits at most before its next try, in seconds, and a margin.

    Args:
        tries: how many tries there were before the one that failed.
        retry_after: what the provider asked for, in seconds.
    """
    if retry_after is not None and 0 < retry_after <= _LONGEST_ASKED:
        return retry_after + _MARGIN_SECONDS
    return float(min(_FIRST_WAIT * 2 ** min(tries, 10), _LONGEST_WAIT)) + _MARGIN_SECONDS


class Awaited:
    """A stream whose last try failed, for as long as the SDK may try again.

    Args:
        record: its record.
        settle: seals it, if no retry has come.
    """

    def __init__(self, record: Record, settle: Callable[[], None]) -> None:
        self.record = record
        self.settle = settle
        self.forget: Callable[[], object] = lambda: None


class NextTries:
    """The streams of one transport that wait for the next try of their call."""

    def __init__(self) -> None:
        self._waiting: list[Awaited] = []

    def take(self, scope: Scope, asked: Asked, redirected: Record | None = None) -> Record | None:
        """The record that this request goes on with, if there is one.

        Args:
            scope: where the request is made.
            asked: what it asks for.
            redirected: the record of the request that was redirected to this one.
        """
        for awaited in tuple(self._waiting):
            record = awaited.record
            goes_on = redirected is record or (asked.tries and record.continued_by(scope, asked))
            if goes_on and record.stream.cause is None and self._drop(awaited):
                return record
        return None

    def wait(
        self, record: Record, settle: Callable[[], None], seconds: float, later: Later
    ) -> None:
        """Keep a stream open for its next try; `settle` seals it when none comes.

        None comes when the time is up, or when the work under its scope is over.
        """

        def over() -> None:
            if self._drop(awaited):
                settle()

        awaited = Awaited(record, over)
        self._waiting.append(awaited)
        record.scope.awaited.append(over)
        awaited.forget = later(seconds, over)

    def _drop(self, awaited: Awaited) -> bool:
        """True for the one who takes it."""
        try:
            self._waiting.remove(awaited)
        except ValueError:
            return False
        awaited.forget()
        with contextlib.suppress(ValueError):  # the scope has emptied its list itself
            awaited.record.scope.awaited.remove(awaited.settle)
        return True


class Record:
    """One stream, which may take several tries.

    Args:
        scope: where the call is made, without a session.
        asked: what its first request asks for.
        provider: who is called.
    """

    def __init__(self, scope: Scope, asked: Asked, provider: str) -> None:
        self.scope = scope
        self.asked = asked
        self.stream: RecordedStream = scope.new_stream(
            model=asked.model,
            provider=provider,
            max_tokens=asked.max_tokens,
            termination=row_of_call(f"//{provider}", provider, asked.model, route_of(asked.path)),
        )
        scope.add(self.stream)

    def continued_by(self, scope: Scope, asked: Asked) -> bool:
        """Whether that request is the next try of this call."""
        mine = self.asked
        return (
            self.scope is scope
            and mine.key == asked.key
            and mine.tries is not None
            and asked.tries == mine.tries + 1
        )

    def start(self) -> Future[None] | None:
        """Write the OPEN record; the provider may be called once the result is done."""
        return self.stream.start()

    def unopened(self, error: BaseException) -> LedgerError:
        """The ledger could not write the OPEN record: the error for whoever wanted to call."""
        self.stream.terminate(Cause.INTERNAL_ERROR, "the OPEN record could not be written")
        self.scope.discard(self.stream)
        if isinstance(error, LedgerError):
            return LedgerError(str(error), self.stream.sealed)
        what = f"the ledger failed with {type(error).__name__}, not with a LedgerError"
        return LedgerError(what, self.stream.sealed)

    def over(self, attempt: Attempt, *, whole: bool) -> None:
        """The call is over and will not be tried again: seal the stream, if nothing else has.

        Args:
            attempt: what is known of it.
            whole: whether the body was read to its end.
        """
        stream = self.stream
        if stream.cause is None:
            cause, detail = _ending(attempt, whole=whole)
            if cause is Cause.CLIENT_DISCONNECT:
                stream.disconnected(detail)
            else:
                stream.ended(cause, detail)
        self.scope.discard(stream)


def _ending(attempt: Attempt, *, whole: bool) -> tuple[Cause, str]:
    """Why the stream ended, in our own words."""
    outcome = attempt.outcome
    if attempt.status in REDIRECTS:
        return Cause.PRODUCER_ERROR, f"nobody followed the redirect of {attempt.provider}"
    if outcome is AttemptOutcome.COMPLETED or (outcome is None and whole):
        # Where nobody could look into it, HTTP's own end is all there is.
        return Cause.COMPLETED, ""
    said = ", ".join(
        f"{name} {value}"
        for name, value in (("status", attempt.status), ("error", attempt.error))
        if value is not None
    )
    if outcome is AttemptOutcome.FAILED:
        return Cause.PRODUCER_ERROR, f"the call to {attempt.provider} failed ({said})"
    if outcome is AttemptOutcome.TRUNCATED:
        return Cause.TRUNCATED, f"{attempt.provider} ended without its terminal marker ({said})"
    return Cause.CLIENT_DISCONNECT, "the application closed the response before its end"
