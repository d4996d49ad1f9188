"""`get_guarded_asgi_application()`: sees what nothing inside Django can see."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIHandler

from streamguard_core import Cause
from streamguard_core.aborting import abort
from streamguard_core.lifespan import App, Send, live, plain
from streamguard_core.receive import Message, Receive, ReceivePump
from streamguard_core.shielding import finish
from streamguard_core.shutdown import LAST_SEND
from streamguard_django.conf import option
from streamguard_django.deploys import deploys
from streamguard_django.middleware import SCOPE_KEY
from streamguard_django.scope import RequestScope


def get_guarded_asgi_application(application: App | None = None) -> GuardedApplication:
    """Return what `asgi.py` serves, in place of `get_asgi_application()`.

    Args:
        application: Django's, if it was made already.

    Example:
        >>> application = get_guarded_asgi_application()  # doctest: +SKIP
    """
    return GuardedApplication(get_asgi_application() if application is None else application)


class GuardedApplication:
    """Stands between the server and Django, where every ending of a request can be seen.

    Inside Django nobody is told when the server cancels a request (5.2 even runs the response on),
    when a reader leaves whom a `send` waits for, or, in a sync stack, when a reader leaves a view
    that has not answered. Here one reader of the server's `receive` tells the request's scope.

    Args:
        app: Django's ASGI application. WebSockets pass through untouched; of the lifespan it is told, too,
            if it is not Django's own, which has none.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        # Django's own has no lifespan, and raises.
        self._lifespan = plain if isinstance(app, ASGIHandler) else app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Run the application for one request, and end with it whatever it has left running."""
        if scope["type"] == "lifespan" and (shutdown := deploys()) is not None:
            await live(self._lifespan, shutdown, scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        guard = RequestScope(asgi=True)
        guard.host = asyncio.current_task()
        connection = Connection(receive, send, guard)
        answer = self.app({**scope, SCOPE_KEY: guard}, connection.receive, connection.send)
        try:
            await _attended(answer, guard)
        except BaseException as error:
            guard.interrupted(error)
            raise
        finally:
            connection.responded = True
            try:
                await finish(guard.close(), option("CLOSE_TIMEOUT"))
            finally:
                guard.finish()
                connection.pump.stop()


async def _attended(answer: Awaitable[None], guard: RequestScope) -> None:
    """Run Django in a task of its own, so that `guard` hears of a cancellation by the server before Django does.

    Inside, it cannot be told from what Django does when a reader leaves (since 6.1, in the same task).
    """
    answering = asyncio.ensure_future(answer)
    try:
        await asyncio.wait([answering])
    except asyncio.CancelledError as error:
        guard.interrupted(error)
        try:
            if not guard.abandoned:
                await finish(answering, LAST_SEND)
        finally:
            answering.cancel(*error.args)
            guard.keep(answering)
        raise
    answering.result()


class Connection:
    """One request's `receive` and `send`.

    Args:
        receive, send: the server's.
        guard: is told when the reader leaves.
    """

    def __init__(self, receive: Receive, send: Send, guard: RequestScope) -> None:
        self.pump = ReceivePump(receive, self._left)
        self.receive = self.pump.receive
        self._send = send
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self.responded = False
        """The response is complete: what happens to the connection now is no disconnect."""
        guard.watch = self._watch
        guard.told = {Cause.CONSUMER_STALLED: self._give_up, Cause.SHUTDOWN: self._give_up_soon}

    def send(self, message: Message) -> Awaitable[None]:
        """What Django awaits in place of the server's `send`. No coroutine of its own per chunk."""
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.responded = True
        return self._send(message)

    def _watch(self) -> Callable[[], None]:
        self._guard.watched = True
        self._loop.call_soon_threadsafe(self.pump.start)
        return _nothing

    def _left(self) -> None:
        if not self.responded:
            self._guard.disconnected("the connection was closed")

    def _give_up(self) -> None:
        self._loop.call_soon_threadsafe(self._break_off)

    def _give_up_soon(self) -> None:
        """A server that goes does not wait for a reader that takes nothing."""
        self._loop.call_soon_threadsafe(self._loop.call_later, LAST_SEND, self._break_off)

    def _break_off(self) -> None:
        """Django is told that its reader is gone: it gives the `send` up, and the server the connection."""
        if not self._guard.over:  # the connection may be another request's by then
            abort(self._send)
            self.pump.stop()


def _nothing() -> None:
    """The undo of a watch that ends with its request."""
