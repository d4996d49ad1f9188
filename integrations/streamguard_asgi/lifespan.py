"""The server's own beginning and end, as an ASGI application is told of them: when to install, when to flush."""

from __future__ import annotations

from streamguard_asgi._starlette import ASGIApp, ASGIScope, Message, Receive, Send
from streamguard_core import Shutdown


async def live(
    app: ASGIApp, shutdown: Shutdown, scope: ASGIScope, receive: Receive, send: Send
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
