"""The scope in which a guarded chain runs: its models, its transports and its generators find it there."""

from __future__ import annotations

from streamguard_core import Report, Scope, StreamSession, SyncStreamSession
from streamguard_langchain.generators import Begun

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
