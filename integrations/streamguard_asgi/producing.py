"""What an endpoint may hand over to be streamed, and how it is closed when nobody will stream it."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from streamguard_asgi._starlette import Response
from streamguard_core import StreamSession

logger = logging.getLogger("streamguard")


def is_producer(value: object) -> bool:
    """True when a session takes `value` as a producer; what an endpoint returns as JSON is none."""
    if isinstance(value, StreamSession) or callable(getattr(value, "run", None)):
        return True
    return (
        callable(getattr(value, "stream", None))
        or hasattr(value, "__aiter__")
        or hasattr(value, "__next__")
    )


def producer_of(response: Response) -> Any:
    """The producer behind a streaming response's `body_iterator`, in the bytes that it sends."""
    body: Any = response.body_iterator  # type: ignore[attr-defined]
    sse = sys.modules.get("sse_starlette.event")
    if sse is not None and hasattr(response, "sep"):
        # Looked up, not imported: importing it patches the server.
        return Mapped(body, lambda item: sse.ensure_bytes(item, response.sep))
    blocking = threaded_iterator(body)
    return body if blocking is None else blocking


def threaded_iterator(body: Any) -> Any:
    """The blocking iterator inside Starlette's `iterate_in_threadpool`, if `body` is one that has not begun.

    That generator neither closes it nor can leave it while it blocks; a session runs it in a thread
    of its own, closes it there, and does not wait for it at the cutoff.
    """
    frame = getattr(body, "ag_frame", None)
    if frame is None or frame.f_code.co_name != "iterate_in_threadpool" or body.ag_running:
        return None
    iterator = frame.f_locals.get("iterator")
    return iter(iterator) if iterator is not None and "as_iterator" not in frame.f_locals else None


async def close_producer(producer: Any) -> None:
    """Close what will not be streamed: a provider's connection may be open behind it.

    Raises:
        Exception: what its own `aclose()` or `close()` raises.
    """
    for name in ("aclose", "close"):
        close = getattr(producer, name, None)
        if callable(close):
            closing = close()
            if inspect.isawaitable(closing):
                await closing
            return


async def discard(result: Any) -> None:
    """Close what an endpoint returned and nobody will stream, be it a response or a producer."""
    inner = getattr(result, "body_iterator", None) or getattr(result, "content", None)
    try:
        await close_producer(result if inner is None else inner)
    except Exception as error:  # noqa: BLE001 - nobody is left to whom it matters
        logger.warning("closing what an endpoint had returned raised %s", type(error).__name__)


async def discard_later(work: Awaitable[Any]) -> None:
    """The same for what a thread may still return."""
    try:
        result = await work
    except Exception as error:  # noqa: BLE001 - its reader has left
        logger.info("an endpoint raised %s after its stream was cut off", type(error).__name__)
    else:
        await discard(result)


class Mapped:
    """An async iterator with each item turned into bytes; closing it closes what is inside."""

    __slots__ = ("_inner", "_step", "_turn")

    def __init__(self, inner: Any, turn: Callable[[Any], bytes]) -> None:
        self._inner = inner
        self._step: AsyncIterator[Any] | None = None
        self._turn = turn

    def __aiter__(self) -> Mapped:
        return self

    async def __anext__(self) -> bytes:
        if self._step is None:
            self._step = self._inner.__aiter__()
        return self._turn(await self._step.__anext__())

    async def aclose(self) -> None:
        """Close the inner iterator."""
        await close_producer(self._inner if self._step is None else self._step)
