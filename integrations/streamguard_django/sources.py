"""A response's own iterator as a session runs it: inside its scope, in bytes, one item at a time."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.db import connections

from streamguard_core import Scope
from streamguard_core.scope import enter_scope, leave_scope

Make = Callable[[Any], Any]
_END: Final = object()


def unchanged(item: Any) -> Any:
    """For producers whose chunks are a format's to encode."""
    return item


class Source:
    """What the kinds have in common.

    Args:
        scope: in force while the iterator runs.
        make: turns an item into a chunk.
    """

    __slots__ = ("_make", "_scope", "error")

    def __init__(self, scope: Scope, make: Make) -> None:
        self._scope = scope
        self._make = make
        self.error: Exception | None = None
        """What the iterator raised: a response of the application's own fails with it, as it always did."""


class AsyncSource(Source):
    """An async iterator, under ASGI or on a loop that serves WSGI."""

    __slots__ = ("_iterable", "_iterator")

    def __init__(self, iterable: Any, scope: Scope, make: Make = unchanged) -> None:
        super().__init__(scope, make)
        self._iterable = iterable
        self._iterator: AsyncIterator[Any] | None = None
        """From the first step on: until then, what was opened is the iterable."""

    def __aiter__(self) -> AsyncSource:
        return self

    async def __anext__(self) -> Any:
        token = enter_scope(self._scope)
        try:
            if self._iterator is None:
                self._iterator = aiter(self._iterable)
            return self._make(await self._iterator.__anext__())
        except StopAsyncIteration:
            raise
        except Exception as error:
            self.error = error
            raise
        finally:
            leave_scope(token)

    async def aclose(self) -> None:
        """Close the iterator, if it can be closed."""
        for name in ("aclose", "close"):
            opened = self._iterable if self._iterator is None else self._iterator
            close = getattr(opened, name, None)
            if callable(close):
                closing = close()
                if inspect.isawaitable(closing):
                    await closing
                return


class BlockingSource(Source):
    """What the kinds over a sync iterator have in common: a step of it, in whatever thread that is."""

    __slots__ = ("_iterator",)

    def __init__(self, iterable: Any, scope: Scope, make: Make = unchanged) -> None:
        super().__init__(scope, make)
        self._iterator: Iterator[Any] = iter(iterable)

    def _step(self) -> Any:
        """The next chunk, or `_END`: a `StopIteration` cannot leave a thread."""
        token = enter_scope(self._scope)
        try:
            item = next(self._iterator, _END)
            return item if item is _END else self._make(item)
        except Exception as error:
            self.error = error
            raise
        finally:
            leave_scope(token)

    def _closer(self) -> Callable[[], Any] | None:
        """What closes the iterator, if it can be closed."""
        close = getattr(self._iterator, "close", None)
        return close if callable(close) else None


class ThreadedSource(BlockingSource):
    """A sync iterator under ASGI: each item is asked for in the request's own thread, as its views run in.

    What is asked for there waits for what runs there, so that the iterator is never closed from
    another thread while it runs.
    """

    __slots__ = ()

    def __aiter__(self) -> ThreadedSource:
        return self

    async def __anext__(self) -> Any:
        item = await sync_to_async(self._step)()
        if item is _END:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """Close the iterator in its thread, once that is out of it."""
        close = self._closer()
        if close is not None:
            await sync_to_async(close)()


class SyncSource(BlockingSource):
    """A sync iterator under WSGI.

    Args:
        iterable, scope, make: as for the others.
        own_thread: it runs in a thread that no request closes the database connections of.
    """

    __slots__ = ("_own_thread",)

    def __init__(
        self, iterable: Any, scope: Scope, make: Make = unchanged, *, own_thread: bool = False
    ) -> None:
        super().__init__(iterable, scope, make)
        self._own_thread = own_thread

    def __iter__(self) -> SyncSource:
        return self

    def __next__(self) -> Any:
        item = self._step()
        if item is _END:
            raise StopIteration
        return item

    def close(self) -> None:
        """Close the iterator, if it can be closed."""
        try:
            close = self._closer()
            if close is not None:
                close()
        finally:
            if self._own_thread:
                connections.close_all()
