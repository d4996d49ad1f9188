"""One call of a guarded runnable: what is called, and with which config."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing
from typing import Any

from streamguard_langchain._langchain import BaseCallbackManager, RunnableConfig


class ChainCall:
    """A call that is made when its first item is asked for, in the context in which it is asked.

    Args:
        method: of the runnable that is guarded.
        given: its input: a value, or an iterator of them.
        merge: settles the config.
        config: as the caller gave it.
        kwargs: the caller's other arguments.
    """

    __slots__ = ("_config", "_given", "_kwargs", "_merge", "_method", "_settled")

    def __init__(
        self,
        method: Callable[..., Any],
        given: Any,
        merge: Callable[..., RunnableConfig],
        config: RunnableConfig | None,
        kwargs: dict[str, Any],
    ) -> None:
        self._method = method
        self._given = given
        self._merge = merge
        self._config = config
        self._kwargs = kwargs
        self._settled: RunnableConfig = {}

    def settle(self) -> bool:
        """Settle the config.

        Returns:
            Whether the runnable is a part of another chain.
        """
        self._settled = self._merge(self._config)
        callbacks = self._settled.get("callbacks")
        inside = callbacks.parent_run_id if isinstance(callbacks, BaseCallbackManager) else None
        return inside is not None

    def __call__(self) -> Any:
        """Make the call."""
        return self._method(self._given, self._settled, **self._kwargs)


def once(invoke: Callable[..., Any]) -> Callable[..., Generator[Any, None, None]]:
    """What is called for one result, as a stream of one item."""

    def streamed(*arguments: Any, **keywords: Any) -> Generator[Any, None, None]:
        yield invoke(*arguments, **keywords)

    return streamed


def once_async(ainvoke: Callable[..., Any]) -> Callable[..., AsyncGenerator[Any, None]]:
    """The same for what is awaited."""

    async def streamed(*arguments: Any, **keywords: Any) -> AsyncGenerator[Any, None]:
        yield await ainvoke(*arguments, **keywords)

    return streamed


def only(stream: Generator[Any, None, None]) -> Any:
    """The one item of a stream, which is read to its end."""
    (item,) = stream
    return item


async def only_async(stream: AsyncGenerator[Any, None]) -> Any:
    """The same for an async one."""
    async with aclosing(stream):
        (item,) = [item async for item in stream]
    return item
