"""A call of a producer's, which knows what its response said and puts it on the attempt."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from streamguard_core import (
    Attempt,
    AttemptOutcome,
    AttemptRole,
    CutOffError,
    Report,
    TruncatedStream,
    Usage,
    total_usage,
)
from streamguard_providers.async_calls import AsyncCall
from streamguard_providers.errors import ProviderError
from streamguard_providers.stream_decoder import StreamDecoder

_WORD: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def wanted(report: Report) -> bool:
    """Whether a further call may be made: not for a reader who left, though a drain or a grace reads on.

    A report that cannot say so ends its calls at the cutoff.
    """
    asked = getattr(report, "wanted", None)
    return asked is None or bool(asked())


class Spent:
    """What the calls of one answer have used, each of which costs money."""

    def __init__(self) -> None:
        self._usages: list[Usage | None] = []

    def enter(self, attempt: Attempt) -> None:
        """A call is over."""
        if not attempt.cost_nothing:
            self._usages.append(attempt.usage)

    def tell(self, report: Report) -> None:
        """All calls are over: report the usage of all together, where it is not that of the only one."""
        if len(self._usages) > 1 and any(self._usages):
            report.finish(None, total_usage(self._usages))


class ProducerCall(AsyncCall):
    """A call whose response is decoded.

    Args:
        decoder: decodes the response.
        spent: what the tries of the same answer have used.
        role: why the call is made.
        rest: as for `AsyncCall`.
    """

    def __init__(
        self,
        cut_off: type[CutOffError],
        *,
        decoder: StreamDecoder,
        spent: Spent,
        role: AttemptRole = AttemptRole.FIRST,
        **rest: Any,
    ) -> None:
        super().__init__(cut_off, **rest)
        self.decoder = decoder
        self.chunks = 0
        """Chunks decoded so far."""
        self._spent = spent
        self._role = role
        self._failure: Exception | None = None

    def begin(self, transport: object) -> None:
        """The request goes out now; until now there may have been a wait before a retry."""
        self._started_ns = self._clock()
        super().begin(transport)

    def answered(self, response: Any) -> None:
        """The response's headers are here; Anthropic has a name of its own for the call's."""
        super().answered(response)
        if self.request_id is None:
            self.request_id = response.headers.get("request-id")

    def failed(self, error: Exception) -> None:
        """The call failed with `error`."""
        self._failure = error

    def finish(self, failure: BaseException | None = None, *, whole: bool = False) -> bool:
        """The call is over, one way or the other."""
        ended = super().finish(failure, whole=whole)
        if ended and self._asked:
            self._spent.enter(self.attempt())
        return ended

    def attempt(self) -> Attempt:
        """What is known of this call, for the receipt."""
        decoder = self.decoder
        failure = self._failure or decoder.error
        return msgspec.structs.replace(
            super().attempt(),
            role=self._role,
            outcome=self._outcome(failure),
            chunks=self.chunks,
            finish=decoder.finish,
            error=None if failure is None else error_word(failure),
            usage=decoder.usage,
        )

    def _outcome(self, failure: Exception | None) -> AttemptOutcome | None:
        if failure is not None:
            truncated = isinstance(failure, TruncatedStream)
            return AttemptOutcome.TRUNCATED if truncated else AttemptOutcome.FAILED
        if self.decoder.done:
            return AttemptOutcome.COMPLETED
        return AttemptOutcome.CUT if self.was_cut else AttemptOutcome.COMPLETED


def error_word(error: BaseException) -> str | None:
    """One word for a failure, that quotes nobody: the provider's type or code, or an error's name."""
    if isinstance(error, ProviderError):
        word = error.type or error.code
        if word is not None and _WORD.fullmatch(word):
            return word
    cause = error.__cause__
    if cause is not None:
        return type(cause).__name__
    if isinstance(error, ProviderError):
        return None if error.status is None else f"status_{error.status}"
    return type(error).__name__
