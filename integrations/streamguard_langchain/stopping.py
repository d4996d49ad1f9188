"""How a chain is told to stop: an exception that nothing in a chain takes for a failure."""

from __future__ import annotations

import asyncio
from typing import ClassVar, Final

from streamguard_core import Cause, Report, Scope
from streamguard_core.errors import StreamStopped


class ChainStopped(StreamStopped):
    """The stream of this chain is over: whatever runs in it ends, and nothing more is begun.

    No `Exception`, so that no fallback, no retry and no `except Exception` of an application goes on
    for a reader who left; and no `CancelledError`, because nobody has cancelled a task. It does not
    leave a guarded runnable, unless that is a part of another chain, which has to stop as well.

    Invariant: `generations` is empty and `llm_output` is None: `agenerate()` of a chat model reads
    them off whatever ended a call and is no `Exception`.
    """

    generations: ClassVar[tuple[()]] = ()
    llm_output: ClassVar[None] = None


def cause_of_end(report: Report | None) -> Cause | None:
    """The cause of a stream, once it is fixed; None as well for a report that does not tell."""
    cause = getattr(report, "cause", None)
    return cause if isinstance(cause, Cause) else None


def live_session(scope: Scope | None) -> Report | None:
    """The stream to which what is called in `scope` belongs, unless it was completed before."""
    session: Report | None = None if scope is None else scope.session
    return None if cause_of_end(session) is Cause.COMPLETED else session


ENDED_FROM_OUTSIDE: Final = (ChainStopped, GeneratorExit, asyncio.CancelledError)
"""What a run ends with that has not failed itself."""
