"""Steps an async iterator by hand, so that what is ready can be taken without waiting for what is not."""

from __future__ import annotations

import types
from collections.abc import Generator
from typing import Any, Final

NOT_READY: Final = object()
"""The iterator has to wait."""


class Detached(BaseException):
    """The iterator was given up on: its close deadline passed while it ignored its cancellation."""


class Step:
    """One `__anext__` in progress. Not ready = suspended on a future that somebody has yet to wait for.

    Invariant: the step is resumed by the task that began it, except to wind a stream down.
    """

    __slots__ = ("_coroutine", "_future", "detached")

    def __init__(self, awaitable: Any, future: Any = None) -> None:
        # An async generator's step and a coroutine have `send` themselves.
        done = awaitable is None or hasattr(awaitable, "send")
        self._coroutine = awaitable if done else awaitable.__await__()
        self._future: Any = future
        self.detached = False

    def hold(self, coroutine: Any, future: Any) -> None:
        """Stand for the next `__anext__`, which was begun and waits for `future`."""
        self._coroutine = coroutine
        self._future = future

    def advance(self) -> Any:
        """Run until the iterator has a chunk, which is returned, or has to wait: NOT_READY."""
        try:
            self._future = self._coroutine.send(None)
        except StopIteration as done:
            return done.value
        return NOT_READY

    @types.coroutine
    def wait(self) -> Generator[Any, Any, Any]:
        """Wait for the chunk; what is thrown in (a cancellation) is passed on into the iterator."""
        step, future = self._coroutine, self._future
        while True:
            try:
                sent = yield future
            except BaseException as error:
                if self.detached:
                    raise Detached from None
                try:
                    future = step.throw(error)
                except StopIteration as done:
                    return done.value
            else:
                try:
                    future = step.send(sent)
                except StopIteration as done:
                    return done.value
            self._future = future

    @types.coroutine
    def cancel(self, error: BaseException) -> Generator[Any, Any, Any]:
        """Throw `error` into the suspended iterator and let it clean up."""
        try:
            self._future = self._coroutine.throw(error)
        except StopIteration as done:
            return done.value
        return (yield from self.wait())
