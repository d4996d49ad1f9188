"""`Resume`: what is kept of a project's streams for readers who come back, as the setting `RESUME` says."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, Unpack

from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async

from streamguard_core.keeping import KeepingOptions, KeptStreams, owner_text

Owner = Callable[[Any], str | Awaitable[str]]
"""Says whose a request is: a user's or a session's id. May use the ORM."""

OPTIONS: Final = (*KeepingOptions.__annotations__, "owner")
"""The keys of the setting."""


class Resume(KeptStreams):
    """The streams of this process whose readers may come back. One for a project.

    Args:
        owner: says whose a request is. Only the same owner may resume or stop a stream; without it
            whoever knows the stream's id may.
        options: as for `KeptStreams`.

    Raises:
        UsageError: for a bound that is out of range.
    """

    def __init__(self, *, owner: Owner | None = None, **options: Unpack[KeepingOptions]) -> None:
        super().__init__(**options)
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
