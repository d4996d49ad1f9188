"""A response's own iterator as a session runs it: inside its scope, one item at a time; and what makes bytes of one."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.db import connections
from django.http.response import HttpResponseBase

from streamguard_core import Scope
from streamguard_core.scope import enter_scope, leave_scope, remain_in

Make = Callable[[Any], Any]
_END: Final = object()


def unchanged(item: Any) -> Any:
    """For producers whose chunks are a format's to encode."""
    return item


def maker_of(response: Any) -> Make:
    """Django's own `make_bytes()` of a response, which looks its charset up for each item; here it is, once.

    Args:
        response: whose headers are settled when the first item comes.
    """
    make: Make = response.make_bytes
    if type(response).make_bytes is not HttpResponseBase.make_bytes:
        return make
    charset: str | None = None

    def made(item: Any) -> bytes:
        nonlocal charset
        if not isinstance(item, str):
            return make(item)  # type: ignore[no-any-return]
        if charset is None:
            charset = response.charset
        return item.encode(charset)

    return made


class AsyncSource:
    """An async iterator, under ASGI or on a loop that serves WSGI.

    Args:
        iterable: the application's.
        scope: in force while it runs, and from its first step on in the context that asks for its items.
    """

    __slots__ = ("_iterable", "_next", "_scope")

    def __init__(self, iterable: Any, scope: Scope) -> None:
        self._scope = scope
        self._iterable = iterable
        """What was opened: the iterator, from the first step on."""
        self._next: Callable[[], Awaitable[Any]] | None = None

    def __aiter__(self) -> AsyncSource:
        return self

    def __anext__(self) -> Awaitable[Any]:
        # No coroutine of its own: that is half of what a chunk would cost here.
        remain_in(self._scope)
        if self._next is None:
            self._iterable = aiter(self._iterable)
            self._next = self._iterable.__anext__
        return self._next()

    async def aclose(self) -> None:
        """Close the iterator, if it can be closed."""
        for name in ("aclose", "close"):
            close = getattr(self._iterable, name, None)
            if callable(close):
                closing = close()
                if inspect.isawaitable(closing):
                    await closing
                return


class BlockingSource:
    """What the kinds over a sync iterator have in common: a step of it, in whatever thread that is.

    Args:
        iterable: the application's.
        scope: in force while it runs.
        make: turns an item into a chunk.
    """

    __slots__ = ("_iterator", "_make", "_scope")

    def __init__(self, iterable: Any, scope: Scope, make: Make = unchanged) -> None:
        self._scope = scope
        self._make = make
        self._iterator: Iterator[Any] = iter(iterable)

    def _step(self) -> Any:
        """The next chunk, or `_END`: a `StopIteration` cannot leave a thread."""
        token = enter_scope(self._scope)
        try:
            item = next(self._iterator, _END)
            return item if item is _END else self._make(item)
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
