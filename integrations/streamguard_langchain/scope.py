"""The scope in which a guarded chain runs: its models, its transports and its generators find it there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from streamguard_core import Cause, Report, Scope, StreamSession, SyncStreamSession, current_scope
from streamguard_langchain.generators import Begun
from streamguard_langchain.stopping import ChainStopped, cause_of_end

Pump = StreamSession | SyncStreamSession


class ChainScope(Scope):
    """One guarded chain, within whatever scope it is called in.

    Args:
        session: the stream to which the chain's calls belong.
        pump: the session that runs this chain: the same, or a part of it.
        begun: what sees the async generators of the chain.
        outer: the scope around it.
    """

    def __init__(
        self, session: Report, pump: Pump, begun: Begun | None, outer: Scope | None
    ) -> None:
        super().__init__()
        self.session = session
        self.pump = pump
        self.outer = outer
        self.over = False
        """The chain has come to its own end."""
        self._begun = begun
        if outer is not None:
            self.host, self.shutdown = outer.host, outer.shutdown
        self.model_error: BaseException | None = None
        """What the last model's run that failed was ended by."""

    @property
    def generators(self) -> Begun | None:
        """The async generators of the chain."""
        return self._begun

    def blames_model(self, error: BaseException) -> bool:
        """Whether a model's run is behind what the chain has raised."""
        behind: BaseException | None = error
        seen: set[int] = set()
        while behind is not None and id(behind) not in seen:
            if behind is self.model_error:
                return True
            seen.add(id(behind))
            behind = behind.__cause__ or behind.__context__
        return False

    async def close(self) -> None:
        """Close what the chain has left behind."""
        if self._begun is not None:
            await self._begun.close()


def scope_of_run() -> Scope | None:
    """The scope to which what begins here belongs: of a chain that has completed, the one around it.

    A task that a chain has begun and not waited for is in the chain's scope for ever, and may call models.
    """
    scope = current_scope()
    while isinstance(scope, ChainScope) and scope.over and scope.pump.cause is Cause.COMPLETED:
        scope = scope.outer
    return scope


def options_in(scope: Scope | None, own: Mapping[str, Any]) -> dict[str, Any]:
    """What a stream has that is built in `scope`: its own options, and the scope's where it has none.

    Observers are told of it on both sides.
    """
    options: dict[str, Any] = {} if scope is None else {**scope.options}
    around = options.get("observers", ())
    options.update((key, value) for key, value in own.items() if value is not None)
    return {**options, "observers": (*own.get("observers", ()), *around)}


def refuse_if_over(scope: Scope | None) -> None:
    """See that nothing is begun for a stream that is over, or for a reader who left.

    Raises:
        ChainStopped: when it is.
    """
    if scope is None:
        return
    # A reader who leaves behind a provider's finish completes the stream, but not the chain: it may have a next round.
    chain_wanted = not isinstance(scope, ChainScope) or scope.pump.wanted()
    if scope.closed or not chain_wanted or not _wanted(scope.session):
        raise ChainStopped(_TEXT)


def _wanted(report: Any) -> bool:
    wanted = getattr(report, "wanted", None)
    return wanted is None or cause_of_end(report) is Cause.COMPLETED or bool(wanted())


_TEXT: Final = (
    "StreamGuard stopped this chain: its reader is gone, or its stream was ended; do not go on"
)
