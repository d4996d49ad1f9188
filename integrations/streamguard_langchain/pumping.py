"""Runs a chain as a stream: opened, pulled, cut off and sealed by a session, with LangChain's own items."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import Any, Final, cast

from streamguard_core import (
    Category,
    Cause,
    CutOffError,
    Report,
    StreamSession,
    SyncStreamSession,
)
from streamguard_core.generators import watch_generators
from streamguard_langchain.calls import ChainCall
from streamguard_langchain.generators import Begun
from streamguard_langchain.receipts import telling
from streamguard_langchain.scope import ChainScope, Pump, options_in, scope_of_run
from streamguard_langchain.steps import NONE, AsyncSteps, BlockingSteps, Steps
from streamguard_langchain.stopping import ChainStopped, cause_of_end, live_session

_OF_EVERY_PART: Final = ("deadlines", "clock")
"""The options that hold for a guarded part of a guarded stream, too."""


async def pull(call: ChainCall, options: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
    """Iterate over what a chain streams, under guard.

    Args:
        call: of the chain.
        options: of the session.

    Raises:
        CutOffError: when the stream was cut off before its end.
    """
    watch_generators()
    nested = call.settle()
    guarded = _Guarded(StreamSession, AsyncSteps, call, options, Begun())
    reader = aiter(cast(StreamSession, guarded.pump))
    try:
        async for item in reader:
            yield None if item is NONE else item
        guarded.raise_what_ended_it(nested=nested)
    finally:
        await reader.aclose()
        if guarded.part:
            # What it has called is told to the stream around it, which is sealed when this returns.
            await cast(StreamSession, guarded.pump).aclose()
        guarded.leave()


def pull_sync(call: ChainCall, options: Mapping[str, Any]) -> Generator[Any, None, None]:
    """The same without an event loop."""
    nested = call.settle()
    guarded = _Guarded(SyncStreamSession, BlockingSteps, call, options, None)
    reader: Any = iter(cast(SyncStreamSession, guarded.pump))
    try:
        for item in reader:
            yield None if item is NONE else item
        guarded.raise_what_ended_it(nested=nested)
    finally:
        reader.close()
        guarded.leave()


class _Guarded:
    """One chain and the session that runs it.

    Within a stream (a guarded endpoint's, an outer chain's) the chain belongs to that: its session
    only runs it, ends with it and leaves no receipt. Elsewhere the session is the stream.
    """

    def __init__(
        self,
        kind: Callable[..., Any],
        steps: Callable[[Callable[[], Any], ChainScope], Steps],
        call: ChainCall,
        options: Mapping[str, Any],
        begun: Begun | None,
    ) -> None:
        self._outer = scope_of_run()
        above = live_session(self._outer)
        self.part = above is not None
        """It belongs to the stream around it."""
        self._undo: Callable[[], object] | None = None
        if above is None:
            self.pump: Pump = kind(None, **self._of_a_stream(options))
        else:
            kept = {name: options[name] for name in _OF_EVERY_PART if name in options}
            self.pump = kind(None, **kept)
        scope = ChainScope(above or self.pump, self.pump, begun, self._outer)
        self._steps = steps(call, scope)
        self.pump.attach(self._steps)
        if above is not None:
            self._end_with(getattr(self._outer, "pump", None) or above)
        elif self._outer is not None:
            self._outer.add(self.pump)

    def raise_what_ended_it(self, *, nested: bool) -> None:
        """The chain is over: raise what it has raised itself, or that it was cut off."""
        error, self._steps.error = self._steps.error, None
        if error is not None:
            raise error
        cause = self.pump.cause
        if cause is None or cause is Cause.COMPLETED:
            return
        if nested and cause.category is not Category.TIMEOUT:
            raise ChainStopped(f"this part of a chain was cut off ({cause})")
        raise CutOffError(
            f"the chain was cut off ({cause}); what came before is not the whole answer, and its receipt says more"
        )

    def leave(self) -> None:
        """Nobody reads on."""
        if self._undo is not None:
            self._undo()

    def _end_with(self, above: Report) -> None:
        def end() -> None:
            self.pump.terminate(cause_of_end(above) or Cause.OPERATOR_CANCEL)

        self._undo = above.on_close(end)

    def _of_a_stream(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a stream; the scope around it forgets it when it is sealed."""
        settled = options_in(self._outer, options)
        if (outer := self._outer) is not None:
            settled["observers"] += (telling(lambda _: outer.discard(self.pump)),)
        return settled
