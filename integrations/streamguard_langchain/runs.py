"""One run of a model within a stream: what is told of it, and who is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec

from streamguard_core import (
    Attempt,
    AttemptOutcome,
    AttemptRole,
    Report,
    Scope,
    Usage,
)
from streamguard_langchain.results import NOTHING, Asked, Said, usage_of
from streamguard_langchain.streams import OwnStream


class ModelRun:
    """A run of a model, between its start and its end. Implements `Report` and `Caller`.

    It belongs to a stream, and is one attempt of it. Where a guarded transport carries its calls,
    that knows more of them, and reports each: the run then only says of which run they are.

    Args:
        report: the stream.
        ends_with: at whose cutoff the run has to stop; the stream, or a part of it.
        asked: what it asks for.
        role: why it is made.
        run_id, parent_run_id: LangChain's.
    """

    __slots__ = (
        "_asked",
        "_ends_with",
        "_ids",
        "_leave",
        "_report",
        "_role",
        "_scope",
        "_seen",
        "_started_ns",
        "carried",
        "chunks",
        "over",
        "own",
        "run_id",
        "stopped",
    )

    def __init__(
        self,
        report: Report,
        ends_with: Report,
        asked: Asked,
        role: AttemptRole,
        run_id: UUID,
        parent_run_id: UUID | None,
    ) -> None:
        self._report = report
        self._ends_with = ends_with
        self._asked = asked
        self._role = role
        self.run_id = run_id
        self._ids: dict[str, Any] = {
            "run_id": str(run_id),
            "parent_run_id": None if parent_run_id is None else str(parent_run_id),
        }
        self._started_ns = time.monotonic_ns()
        self._scope: Scope | None = None
        self._seen = NOTHING
        self.chunks = 0
        self.over = False
        self.own: OwnStream | None = None
        """The stream, where it is this run's own."""
        self.stopped = False
        """The stream was cut off: the next chunk is refused."""
        self.carried = False
        """A guarded transport carries its calls, and reports them."""
        self._leave: Callable[[], None] = _nothing
        self._leave = ends_with.on_close(self._stop)

    @property
    def scope(self) -> Scope:
        """Where its provider calls belong."""
        if self._scope is None:
            self._scope = Scope()
            self._scope.session = self
        return self._scope

    def same_model(self, asked: Asked) -> bool:
        """Whether that asks the same model of the same provider."""
        mine = self._asked
        return (mine.provider, mine.model) == (asked.provider, asked.model)

    def note(self, usage: Any) -> None:
        """A chunk came with a part of the usage: what was sent in stands from the beginning."""
        if not self._seen.usage:
            self._seen = Said(usage=usage_of(usage, whole=False))

    def end(
        self, outcome: AttemptOutcome, said: Said | None = None, error: str | None = None
    ) -> None:
        """The run is over: report it, unless its calls were reported.

        Args:
            outcome: how it ended.
            said: what the provider has said in it.
            error: the type of what it failed with.
        """
        if self.over:
            return
        self.over = True
        self._leave()
        if not self.carried:
            self._report.attempt(self._attempt(outcome, said or self._seen, error))

    # -- what transports tell ------------------------------------------------------------------------

    def connected(self) -> None:
        """The provider's connection stands."""
        self._report.connected()

    def finish(self, reason: str | None = None, usage: Usage | None = None) -> None:
        """The provider's own end was seen."""
        self._report.finish(reason, usage)

    def identify(self, *, model: str | None = None, request_id: str | None = None) -> None:
        """What the provider calls itself and this call."""
        self._report.identify(model=model, request_id=request_id)

    def attempt(self, attempt: Attempt) -> None:
        """One call of this run is over."""
        first = attempt.role is AttemptRole.FIRST
        role = self._role if first else attempt.role
        self._report.attempt(msgspec.structs.replace(attempt, role=role, **self._ids))

    def on_close(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` at the cutoff: a transport carries the call, and closes it then."""
        self.carried = True
        return self._ends_with.on_close(callback)

    # -- inside --------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """The cutoff: told at once, because LangChain tells nothing of a call that is cancelled in `ainvoke()`."""
        self.stopped = True
        # A session that calls its list goes through it: what it has called it need not forget.
        self._leave = _nothing
        self.end(AttemptOutcome.CUT)

    def _attempt(self, outcome: AttemptOutcome, said: Said, error: str | None) -> Attempt:
        asked = self._asked
        return Attempt(
            role=self._role,
            outcome=outcome,
            provider=asked.provider,
            model=said.model or asked.model,
            request_id=said.request_id,
            started_ns=self._started_ns,
            closed_ns=time.monotonic_ns(),
            cut=outcome is AttemptOutcome.CUT,
            chunks=self.chunks,
            finish=said.finish,
            error=error,
            usage=said.usage,
            **self._ids,
        )


def _nothing() -> None:
    """Nothing is to be taken back yet."""
