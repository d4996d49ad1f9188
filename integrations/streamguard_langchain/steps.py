"""A chain's own iterator as a session runs it: inside its scope, one item at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from types import GeneratorType
from typing import Any, Final

from streamguard_core import Cause, CutOffError
from streamguard_core.cancellation import cause_of_failure
from streamguard_core.running import running_task
from streamguard_core.scope import enter_scope, leave_scope
from streamguard_langchain.inside_out import close_inside_out
from streamguard_langchain.scope import ChainScope
from streamguard_langchain.stopping import ChainStopped

logger = logging.getLogger("streamguard")

NONE: Final = object()
"""Stands for a chain's `None`, which is no chunk to a session."""


class Steps:
    """What the two kinds have in common.

    Args:
        begin: calls the chain; within its scope, when the first item is asked for.
        scope: the chain's.
    """

    __slots__ = ("_begin", "_iterator", "_scope", "error")

    def __init__(self, begin: Callable[[], Any], scope: ChainScope) -> None:
        self._begin = begin
        self._iterator: Any = None
        self._scope = scope
        self.error: BaseException | None = None
        """What the chain itself has raised: its caller gets it, as it always did."""

    def _raised(self, error: BaseException) -> None:
        """The chain raised; before the cutoff that is its end, and its caller's business."""
        pump = self._scope.pump
        if pump.cause is not None:
            return
        self.error = error
        if isinstance(error, Exception) and not self._scope.blames_model(error):
            cause = cause_of_failure(error, pump.attempts)
            if cause is Cause.CONSUMER_ERROR:
                # The application's own part has failed: a parser, a tool, a prompt (G14).
                pump.terminate(cause, f"the chain raised {type(error).__name__}")

    def _stopped(self, stop: ChainStopped) -> None:
        """The chain was stopped.

        Raises:
            CutOffError: when that was not because of its own stream's end.
        """
        if self._scope.pump.cause is None:
            self.error = CutOffError(f"a part of the chain was stopped: {stop}")
            raise self.error from stop


class AsyncSteps(Steps):
    """An async iterator, on the running event loop."""

    __slots__ = ("_loop",)

    def __init__(self, begin: Callable[[], Any], scope: ChainScope) -> None:
        super().__init__(begin, scope)
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        token = enter_scope(self._scope)
        task = running_task(self._loop)
        cancelling = 0 if task is None else task.cancelling()
        try:
            if self._iterator is None:
                self._iterator = aiter(self._begin())
            item = await self._iterator.__anext__()
            if task is not None and task.cancelling() > cancelling:
                # Swallowed on the way, as `wait_for()` of Python 3.11 does when a chunk comes at the same time:
                # its owner would wait for a chain that goes on.
                raise asyncio.CancelledError("the chain had swallowed it")
        except StopAsyncIteration:
            self._scope.over = True
            raise
        except ChainStopped as stop:
            self._stopped(stop)
            raise StopAsyncIteration from None
        except (Exception, asyncio.CancelledError) as error:
            self._raised(error)
            raise
        finally:
            leave_scope(token)
        return NONE if item is None else item

    async def aclose(self) -> None:
        """Close the chain's iterator, and whatever it leaves behind."""
        token = enter_scope(self._scope)
        try:
            close = getattr(self._iterator, "aclose", None)
            if close is not None:
                await close()
        except ChainStopped:
            pass
        finally:
            leave_scope(token)
            await self._scope.close()


class BlockingSteps(Steps):
    """A sync iterator."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        token = enter_scope(self._scope)
        try:
            if self._iterator is None:
                self._iterator = iter(self._begin())
            item = next(self._iterator)
        except StopIteration:
            self._scope.over = True
            raise
        except ChainStopped as stop:
            self._stopped(stop)
            raise StopIteration from None
        except Exception as error:
            self._raised(error)
            raise
        finally:
            leave_scope(token)
        return NONE if item is None else item

    def close(self) -> None:
        """Close the chain's iterator."""
        token = enter_scope(self._scope)
        try:
            if isinstance(self._iterator, GeneratorType):
                close_inside_out(self._iterator)
            elif hasattr(self._iterator, "close"):
                self._iterator.close()
        except ChainStopped:
            pass
        finally:
            leave_scope(token)
