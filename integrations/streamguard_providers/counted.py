"""Calls of an application's own: counted from the bytes, and recorded where no session does it."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any, Final

import msgspec

from streamguard_core import (
    Attempt,
    AttemptOutcome,
    AttemptRole,
    CutOffError,
    LedgerError,
    Scope,
)
from streamguard_providers.asked import Asked
from streamguard_providers.async_calls import AsyncCall
from streamguard_providers.calls import Call
from streamguard_providers.record import (
    REDIRECTED,
    REDIRECTS,
    NextTries,
    Record,
    redirect_wait,
    retry_wait,
)
from streamguard_providers.retries import retry_after
from streamguard_providers.sync_calls import SyncCall
from streamguard_providers.tally import Tally

#: After these, and from 500 on, the SDKs try again.
_RETRIED: Final = frozenset({408, 409, 429})


class Counted(Call):
    """A call whose response is counted beside its reader. Combined with one of the two kinds of calls.

    Args:
        cut_off: the error a reader gets at the cutoff.
        asked: what the request asks for.
        tries: those the transport waits for.
        redirected: the record of the request that was redirected to this one.
        rest: as for `Call`.
    """

    def __init__(
        self,
        cut_off: Any,
        *,
        asked: Asked,
        tries: NextTries,
        redirected: Record | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(cut_off, model=asked.model, **rest)
        self._redirected = redirected
        self._counted = asked
        self._spends = asked.spends
        self._tries = tries
        self._tally = Tally(asked, self.provider or "provider")
        self._came_ns = 0
        """When the part came that the tally has not looked into yet."""
        self._failure: BaseException | None = None
        self._whole = False
        self._retry_after: float | None = None
        self._told_to_retry: bool | None = None
        self.record: Record | None = None

    def join(self, scope: Scope) -> None:
        """Belong to the scope's session; or be a try of a stream that is recorded by itself."""
        if scope.session is not None or scope.closed or not self._counted.generates:
            super().join(scope)
            return
        record = self._tries.take(scope, self._counted, self._redirected)
        if record is None:
            record = Record(scope, self._counted, self.provider or "provider")
        record.asked = self._counted
        self.record = record
        record.stream.catch_up = self._catch_up
        self.report_to(record.stream)

    def _opening(self) -> Future[None] | None:
        """What is to be waited for before the provider may be called."""
        opening = None if self.record is None or self.was_cut else self.record.start()
        return None if opening is None or _succeeded(opening) else opening

    def _unopened(self, error: Exception) -> LedgerError:
        assert self.record is not None, "only a record is opened"
        told = self.record.unopened(error)
        self.finish()
        return told

    def answered(self, response: Any) -> None:
        """The response's headers are here."""
        super().answered(response)
        headers = response.headers
        self.request_id = self.request_id or headers.get("request-id")
        self._retry_after = retry_after(headers)
        self._told_to_retry = {"true": True, "false": False}.get(headers.get("x-should-retry", ""))
        self._tally.begin(response)

    def received(self, part: bytes) -> None:
        """The application gets this part of the body next."""
        self.bytes_received += len(part)
        self._passed(self._tally.take(part))
        self._came_ns = self._clock()

    @property
    def handed_on(self) -> dict[str, Any]:
        """What a request that follows this one's redirect must know."""
        going_on = self.record is not None and self.status in REDIRECTS
        return {REDIRECTED: self.record} if going_on else {}

    def finish(self, failure: BaseException | None = None, *, whole: bool = False) -> bool:
        """The call is over, one way or the other: report it, once, and leave."""
        if not self.over:
            self._failure, self._whole = failure, whole
            self._passed(self._tally.end(whole=whole))
        ended = super().finish(failure, whole=whole)
        if ended and self.record is not None:
            self._close(self.record)
        return ended

    def attempt(self) -> Attempt:
        """What is known of this call, for the receipt."""
        tally, said = self._tally, self._tally.said
        outcome = self._outcome()
        return msgspec.structs.replace(
            super().attempt(),
            role=AttemptRole.RETRY if self._counted.tries else AttemptRole.FIRST,
            outcome=outcome,
            cut=outcome is AttemptOutcome.CUT,
            model=(said.model if said is not None else None) or self.model,
            chunks=tally.chunks,
            finish=None if said is None else said.finish,
            error=tally.error or self._error_word(outcome),
            usage=tally.usage,
        )

    def _outcome(self) -> AttemptOutcome | None:
        told = self._tally.outcome
        if told is not None:
            return told
        if self.was_cut:
            return AttemptOutcome.CUT
        if isinstance(self._failure, Exception):
            return AttemptOutcome.FAILED if self.status is None else AttemptOutcome.TRUNCATED
        return None if self._whole else AttemptOutcome.CUT

    def _error_word(self, outcome: AttemptOutcome | None) -> str | None:
        """A word for a failure for which the provider had none."""
        if outcome is AttemptOutcome.FAILED and self.status is not None:
            return f"status_{self.status}"
        if outcome in _BROKEN and self._failure is not None:
            return type(self._failure).__name__
        return None

    def _catch_up(self) -> None:
        """Count the part that the application has got last, and tell what it said of the end."""
        self._passed(self._tally.end(whole=False))
        said = self._tally.said
        if self.record is not None and said is not None and said.finish is not None:
            # Who leaves behind the finish has missed nothing: the usage comes from the attempt.
            self.record.stream.finish(said.finish)

    def _passed(self, chunks: int) -> None:
        if self.record is not None:
            self.record.stream.passed(chunks, self._came_ns)

    def _close(self, record: Record) -> None:
        """Seal the stream, or keep it open for the SDK's next try."""
        attempt, whole = self.attempt(), self._whole and self._asked

        def settle() -> None:
            record.over(attempt, whole=whole)

        if record.stream.cause is not None:
            settle()
        elif self.status in REDIRECTS:
            self._tries.wait(record, settle, redirect_wait(), self.later)
        elif self._may_be_retried(attempt):
            seconds = retry_wait(self._counted.tries or 0, self._retry_after)
            self._tries.wait(record, settle, seconds, self.later)
        else:
            settle()

    def _may_be_retried(self, attempt: Attempt) -> bool:
        """Whether an SDK that counts its tries may make another one."""
        if self._counted.tries is None or attempt.outcome is not AttemptOutcome.FAILED:
            return False
        if self.status is None:
            return True
        if self._told_to_retry is not None:
            return self._told_to_retry
        return self.status in _RETRIED or self.status >= 500


class CountedAsyncCall(Counted, AsyncCall):
    """The same, of an async client."""

    async def opened(self) -> None:
        """Wait until the OPEN record is durable; only then may the provider be called.

        Raises:
            LedgerError: when the ledger could not write it.
            CutOffError: when the cutoff came first.
        """
        opening = self._opening()
        if opening is None:
            return
        try:
            await self.attend(asyncio.shield(asyncio.wrap_future(opening)))
        except CutOffError:
            raise
        except Exception as error:
            raise self._unopened(error) from error
        except BaseException as error:
            self.finish(error)
            raise


class CountedSyncCall(Counted, SyncCall):
    """The same, of a sync client."""

    def opened(self) -> None:
        """Wait until the OPEN record is durable; only then may the provider be called.

        Raises:
            LedgerError: when the ledger could not write it.
        """
        opening = self._opening()
        if opening is None:
            return
        try:
            opening.result()
        except Exception as error:
            raise self._unopened(error) from error
        except BaseException as error:
            self.finish(error)
            raise


def _succeeded(future: Future[None]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


_BROKEN: Final = (AttemptOutcome.FAILED, AttemptOutcome.TRUNCATED)
