"""What `Resume` and `Acknowledge` have in common: they are mounted, and know whose a request is."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable

from streamguard_asgi._starlette import ASGIScope, Receive, Request, Router, Send
from streamguard_core.keeping import owner_text

Owner = Callable[[Request], str | Awaitable[str]]
"""Says whose a request is: a user's or a session's id."""


class Owned:
    """An application to mount, whose requests belong to somebody.

    Args:
        owner: says whose a request is; None for nobody's in particular.
        routes: what is answered.
    """

    def __init__(self, owner: Owner | None, routes: Router) -> None:
        self._owner = owner
        self._routes = routes

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer what is sent to the address that this is mounted at."""
        await self._routes(scope, receive, send)

    async def owner_of(self, request: Request) -> str:
        """Whose a request is; nobody's in particular without `owner`.

        Raises:
            UsageError: when `owner` says something that is no text.
        """
        if self._owner is None:
            return ""
        owner = self._owner(request)
        return owner_text(await owner if inspect.isawaitable(owner) else owner)
