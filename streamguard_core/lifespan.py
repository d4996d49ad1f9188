"""The server's own beginning and end, as an ASGI application is told of them: when to install, when to flush."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from streamguard_core.receive import Message, Receive
from streamguard_core.shutdown import Shutdown

Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


async def live(
    app: App, shutdown: Shutdown, scope: MutableMapping[str, Any], receive: Receive, send: Send
) -> None:
    """Run the application's lifespan, and see what the server says in it.

    Servers have set their signal handlers by the time they start their applications, and they say
    `lifespan.shutdown` only when the responses are over: too late to end streams, in time for what
    outlived its request. The application, which may close its ledger then, hears of it afterwards.
    """

    async def received() -> Message:
        message = await receive()
        if message["type"] == "lifespan.startup":
            shutdown.rearm()
        elif message["type"] == "lifespan.shutdown":
            shutdown.cut()
            await shutdown.flushed()
        return message

    async def sent(message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            shutdown.install()
        await send(message)
        if message["type"].startswith("lifespan.shutdown"):
            shutdown.uninstall()

    await app(scope, received, sent)


async def plain(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """The lifespan of an application that has none of its own, and would raise at being asked."""
    for what in ("startup", "shutdown"):
        message = await receive()
        assert message["type"] == f"lifespan.{what}", message["type"]
        await send({"type": f"lifespan.{what}.complete"})
