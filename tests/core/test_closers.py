"""Closing what a stream holds: callbacks that come in the very moment of the cutoff, and late joiners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamguard_core import Cause, Scope, StreamSession


class CutWhileAppending(list[Callable[[], None]]):
    """A list in whose `append` the cutoff falls, as it may when a thread registers its transport."""

    def __init__(self, session: StreamSession, *, missed: bool) -> None:
        super().__init__()
        self._session = session
        self._missed = missed

    def append(self, callback: Callable[[], None]) -> None:
        """Cut the stream off before the callback is in the list (missed), or after."""
        if self._missed:
            self._session.cancel()
        super().append(callback)
        if not self._missed:
            self._session.cancel()


async def _closed_when(*, missed: bool) -> list[str]:
    session, closed = StreamSession(None), list[str]()
    session.start()
    session._closers = CutWhileAppending(session, missed=missed)
    undo = session.on_close(lambda: closed.append("closed"))
    undo()
    await session.receipt()
    return closed


async def test_a_callback_that_the_cutoff_overtook_is_called() -> None:
    """A transport registered by a thread while the cutoff runs the list is closed all the same (G10)."""
    assert await _closed_when(missed=True) == ["closed"]


async def test_a_callback_that_the_cutoff_ran_is_left_alone() -> None:
    """What the cutoff has called needs nothing more, and its undo does no harm."""
    closed = await _closed_when(missed=False)
    assert closed[0] == "closed"


def test_who_joins_a_terminated_scope_is_ended_at_once() -> None:
    """A call that begins after a shutdown must not go out."""

    class Member:
        ended: tuple[Any, ...] = ()

        def disconnected(self, detail: str = "") -> None:
            raise AssertionError("the reader did not leave")

        def terminate(self, cause: Cause, detail: str = "") -> None:
            self.ended = (cause, detail)

    scope, late = Scope(), Member()
    scope.terminate(Cause.SHUTDOWN, "deploy")
    scope.terminate(Cause.USER_CANCEL, "later")
    scope.add(late)
    assert late.ended == (Cause.SHUTDOWN, "deploy")
