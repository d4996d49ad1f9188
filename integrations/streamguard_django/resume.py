"""`Resume`: what is kept of a project's streams for readers who come back, as the setting `RESUME` says."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async

from streamguard_core.keeping import (
    DEFAULT_MAX_ENDED,
    DEFAULT_RETRY,
    DEFAULT_WINDOW,
    KeptStreams,
    owner_text,
)
from streamguard_core.replay import DEFAULT_MAX_BYTES, DEFAULT_MAX_CHUNKS

Owner = Callable[[Any], str | Awaitable[str]]
"""Says whose a request is: a user's or a session's id. May use the ORM."""

OPTIONS: Final = ("window", "max_bytes", "max_chunks", "max_ended", "retry", "owner")
"""The keys of the setting."""


class Resume(KeptStreams):
    """The streams of this process whose readers may come back. One for a project.

    Args:
        window: how long a stream waits for its reader, and is kept after its end, in seconds.
        max_bytes: how much of each stream can be sent again, in bytes of chunks.
        max_chunks: the same, in chunks.
        max_ended: how many streams that have ended are kept, at most; the oldest go first.
        retry: the hint to readers how long to wait before they reconnect, in seconds.
        owner: says whose a request is. Only the same owner may resume or stop a stream; without it
            whoever knows the stream's id may.

    Raises:
        UsageError: for a bound that is out of range.
    """

    def __init__(
        self,
        *,
        window: float = DEFAULT_WINDOW,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_chunks: int = DEFAULT_MAX_CHUNKS,
        max_ended: int = DEFAULT_MAX_ENDED,
        retry: float = DEFAULT_RETRY,
        owner: Owner | None = None,
    ) -> None:
        super().__init__(
            window=window,
            max_bytes=max_bytes,
            max_chunks=max_chunks,
            max_ended=max_ended,
            retry=retry,
        )
        self._owner = owner

    def owner_of(self, request: Any) -> str:
        """Whose a request is; for code without a loop.

        Raises:
            UsageError: when `owner` says something that is no text.
        """
        if self._owner is None:
            return ""
        said: Any = self._owner(request)
        return owner_text(async_to_sync(_awaited)(said) if inspect.isawaitable(said) else said)

    async def aowner_of(self, request: Any) -> str:
        """The same for async code: a function runs in the request's thread, where the ORM may be used."""
        if self._owner is None:
            return ""
        ask: Any = self._owner
        said = ask(request) if iscoroutinefunction(ask) else await sync_to_async(ask)(request)
        return owner_text(await said if inspect.isawaitable(said) else said)


class Resuming(NamedTuple):
    """The stream that a view opens may be resumed.

    Attributes:
        resume: where it is kept.
        owner: whose it is.
    """

    resume: Resume
    owner: str


async def _awaited(said: Awaitable[Any]) -> Any:
    return await said
