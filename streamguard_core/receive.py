"""The one reader of an ASGI request's `receive`: sees the reader leave in every phase, and keeps the body."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from streamguard_core.errors import UsageError

logger = logging.getLogger("streamguard")

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]

DEFAULT_LIMIT: Final = 65536
_OVERHEAD: Final = 64
"""What a message counts for besides its body, so that empty ones are bounded too."""


class ReceivePump:
    """Reads a server's `receive` in a task of its own and hands its messages on, in order.

    Servers differ in what a second reader gets, in what a cancelled `receive()` does to the next
    one, and in whether a disconnect is told twice. So there is one reader, never cancelled before
    the request is over, and the disconnect is told to everybody, for ever.

    A body that nobody reads is held up to `limit`; then reading pauses, and with it the server's
    view of the reader, until somebody takes from it. If the response is streaming by then and
    nobody ever asked for the body, it is read on and dropped instead; asking for it afterwards is
    an error.

    Invariant: at most `limit` bytes and one message are held.

    Args:
        receive: the server's own.
        on_disconnect: called once, when the reader has left.
        limit: how much of the body is read ahead of the application, in bytes.
    """

    __slots__ = (
        "_asked",
        "_error",
        "_held",
        "_limit",
        "_lost",
        "_messages",
        "_on_disconnect",
        "_receive",
        "_room",
        "_streaming",
        "_task",
        "_waiters",
        "gone",
    )

    def __init__(
        self, receive: Receive, on_disconnect: Callable[[], None], limit: int = DEFAULT_LIMIT
    ) -> None:
        self._receive = receive
        self._on_disconnect = on_disconnect
        self._limit = limit
        # A list: there is hardly ever more than one, and an empty deque takes 600 bytes of every request.
        self._messages: list[Message] = []
        self._held = 0
        self._waiters: list[asyncio.Future[None]] | None = None
        self._room: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._asked = self._streaming = self._lost = False
        self.gone = False
        """The reader has left, or the request is over."""

    @property
    def started(self) -> bool:
        """True once somebody wanted to know whether the reader is there."""
        return self._task is not None

    @property
    def listened(self) -> bool:
        """True while somebody waits for the next message, and so for the news that the reader has left."""
        return any(not waiter.done() for waiter in self._waiters or ())

    def start(self) -> None:
        """Begin to read. Nothing is read, and no task is made, for requests in which nobody asks."""
        if self._task is None and not self.gone:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """The request is over: whoever still asks is told that the reader is gone."""
        self.gone = True
        if self._task is not None:
            self._task.cancel()
        self._wake()

    def response_streams(self) -> None:
        """The response is on its way: an application that has not asked for the body will not."""
        if not self._streaming:
            self._streaming = True
            self._make_room()

    async def receive(self) -> Message:
        """Return the next message: what the application awaits in place of the server's `receive`.

        Raises:
            UsageError: when body was dropped because nobody had asked for it while the response
                streamed.
        """
        self._asked = True
        while not self._messages:
            if self.gone:
                return {"type": "http.disconnect"}
            if self._error is not None:
                raise self._error
            if self._lost:
                raise UsageError(
                    f"the request's body was read after {self._limit} bytes of it had waited unread while the"
                    " response was streaming, and the rest was dropped; read it earlier, or raise buffer_limit"
                )
            self.start()
            await self._next()
        message = self._messages.pop(0)
        self._held -= _size(message)
        self._make_room()
        return message

    async def _next(self) -> None:
        """Wait until there is something new; any number may wait, and may cancel their wait."""
        waiter = asyncio.get_running_loop().create_future()
        # Who polls (`Request.is_disconnected()`) leaves a cancelled wait behind each time.
        waiting = [each for each in self._waiters or () if not each.done()]
        self._waiters = [*waiting, waiter]
        await waiter

    async def _run(self) -> None:
        try:
            while True:
                while self._held >= self._limit and not self._dropping():
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    break
                self._put(message)
        except Exception as error:
            logger.warning("a server's receive() raised %s", type(error).__name__)
            self._error = error
        else:
            self.gone = True
            self._on_disconnect()
        self._wake()

    def _put(self, message: Message) -> None:
        if self._lost or (self._held >= self._limit and self._dropping()):
            # From the first gap on: what comes after it would be taken for what is missing.
            self._lost = True
            return
        self._messages.append(message)
        self._held += _size(message)
        self._wake()

    def _dropping(self) -> bool:
        return self._lost or (self._streaming and not self._asked)

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)


def _size(message: Message) -> int:
    return len(message.get("body", b"")) + _OVERHEAD
