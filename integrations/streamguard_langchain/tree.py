"""Which runs of a chain are within which, so that a model's run is known for a further try of one that failed."""

from __future__ import annotations

from uuid import UUID

from streamguard_langchain.runs import ModelRun
from streamguard_langchain.stopping import ENDED_FROM_OUTSIDE


class Failure:
    """A model's run that failed: the next one within the same chain is its retry, or its fallback.

    Args:
        run: the run.
        kind: the type of what it failed with.
    """

    __slots__ = ("kind", "run")

    def __init__(self, run: ModelRun, kind: str) -> None:
        self.run = run
        self.kind = kind

    def settle(self) -> None:
        """No further try has come: the chain has gone on without, or has failed as well."""
        if self.run.own is not None:
            self.run.own.failed(self.kind)

    def leave(self, error: BaseException) -> None:
        """Nobody waits for a further try any more."""
        if self.run.own is not None:
            self.run.own.left(error)


class Tree:
    """The runs of chains, tools and retrievers that are under way: which one is within which."""

    __slots__ = ("_failures", "_parents")

    def __init__(self) -> None:
        self._parents: dict[UUID, UUID | None] = {}
        self._failures: dict[UUID, Failure] = {}

    def __len__(self) -> int:
        return len(self._parents)

    def begin(self, run_id: UUID, parent: UUID | None) -> None:
        """A run begins."""
        self._parents[run_id] = parent

    def end(self, run_id: UUID, error: BaseException | None = None) -> None:
        """A run is over; one that has failed may be made good one storey further up.

        Args:
            run_id: which.
            error: what it has failed with, or was ended by.
        """
        parent = self._parents.pop(run_id, None)
        failure = self._failures.pop(run_id, None)
        if failure is None:
            return
        if isinstance(error, ENDED_FROM_OUTSIDE):
            failure.leave(error)
        else:
            self.fail(failure, None if error is None else parent)

    def fail(self, failure: Failure, parent: UUID | None) -> None:
        """A model's run has failed within `parent`; settled at once where nobody could try again."""
        if parent is None or parent not in self._parents:
            failure.settle()
            return
        before, self._failures[parent] = self._failures.get(parent), failure
        if before is not None:
            before.settle()

    def take_failure(self, parent: UUID | None) -> Failure | None:
        """The failure that a model's run within `parent` is a further try of."""
        while parent is not None:
            if (failure := self._failures.pop(parent, None)) is not None:
                return failure
            parent = self._parents.get(parent)
        return None
