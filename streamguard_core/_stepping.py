"""Steps an async iterator by hand, so that what is ready can be taken without waiting for what is not."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Generator
from typing import Any, Final

_UNFINISHED: Final = object()


class Detached(BaseException):
    """The iterator was given up on: its close deadline passed while it ignored its cancellation."""


class Step:
    """One `__anext__` that was begun and had to wait: suspended on a future that somebody has yet to wait for.

    Invariant: the step is resumed by the task that began it, except to wind a stream down.
    """

    __slots__ = ("_coroutine", "_failure", "_value", "detached", "future")

    def __init__(self) -> None:
        self._coroutine: Any = None
        self.future: Any = None
        """What it waits for; None where it only lets the loop turn."""
        self._value: Any = _UNFINISHED
        self._failure: BaseException | None = None
        self.detached = False

    def hold(self, coroutine: Any, future: Any) -> None:
        """Stand for the next `__anext__`, which was begun and waits for `future`."""
        self._coroutine, self.future = coroutine, future
        self._value, self._failure = _UNFINISHED, None

    @property
    def finished(self) -> bool:
        """True once the iterator has answered; `wait()` then has the answer at once."""
        return self._value is not _UNFINISHED or self._failure is not None

    @property
    def was_cancelled(self) -> bool:
        """True when it ended by a cancellation that went through the iterator."""
        return isinstance(self._failure, asyncio.CancelledError)

    def resume(self, error: BaseException | None = None) -> None:
        """Go on, with `error` thrown in or because `future` is done; the answer, if it comes, is kept."""
        try:
            self.future = (
                self._coroutine.send(None) if error is None else self._coroutine.throw(error)
            )
        except StopIteration as done:
            self._value = done.value
        except BaseException as raised:
            self._failure = raised

    @types.coroutine
    def wait(self) -> Generator[Any, Any, Any]:
        """Wait for the chunk; what is thrown in (a cancellation) is passed on into the iterator."""
        if self.finished:
            return self._answer()
        step, future = self._coroutine, self.future
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
            self.future = future

    @types.coroutine
    def cancel(self, error: BaseException) -> Generator[Any, Any, Any]:
        """Throw `error` into the suspended iterator and let it clean up; returns a chunk that came all the same."""
        if not self.finished:
            self.resume(error)
        return (yield from self.wait())

    def _answer(self) -> Any:
        if self._failure is not None:
            raise self._failure
        return self._value
