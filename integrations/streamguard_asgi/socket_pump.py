"""The one reader of a WebSocket's `receive`: sees the reader leave in every phase, and keeps its messages."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from streamguard_asgi._starlette import Message, Receive
from streamguard_core import UsageError

logger = logging.getLogger("streamguard")

DISCONNECT: Final = "websocket.disconnect"
ABNORMAL: Final = 1006
"""What a close without a close frame is called (RFC 6455, 7.4.1)."""
_OVERHEAD: Final = 64
"""What a message counts for besides its data, so that empty ones are bounded too."""


class SocketPump:
    """Reads a server's `receive` ahead of the application and hands its messages on, in order.

    A server shows the reader's leaving behind its messages, and some read no further than one of
    them. Messages that nobody takes are held up to `limit`; then reading pauses until somebody does.
    While a stream is sent that would hide a stop and the disconnect: then what comes beyond the limit
    is dropped, and asking for it is an error.

    Invariant: at most `limit` bytes and one message are held.

    Args:
        receive: the server's own.
        on_message: called with each message of the reader; True when it was for us.
        on_disconnect: called once, with the disconnect.
        limit: how much is read ahead of the application, in bytes.
    """

    __slots__ = (
        "_disconnect",
        "_error",
        "_held",
        "_limit",
        "_lost",
        "_messages",
        "_on_disconnect",
        "_on_message",
        "_receive",
        "_room",
        "_streaming",
        "_task",
        "_waiters",
    )

    def __init__(
        self,
        receive: Receive,
        on_message: Callable[[Message], bool],
        on_disconnect: Callable[[Message], None],
        limit: int,
    ) -> None:
        self._receive = receive
        self._on_message = on_message
        self._on_disconnect = on_disconnect
        self._limit = limit
        self._messages: deque[Message] = deque()
        self._held = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._room: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._disconnect: Message | None = None
        self._streaming = self._lost = False

    @property
    def started(self) -> bool:
        """True once somebody asked for a message: every application does, for the first one."""
        return self._task is not None

    def start(self) -> None:
        """Begin to read."""
        if self._task is None and self._disconnect is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """The connection is over: whoever still asks is told so."""
        self._disconnect = self._disconnect or {"type": DISCONNECT, "code": ABNORMAL}
        if self._task is not None:
            self._task.cancel()
        self._wake()

    def response_streams(self, streaming: bool = True) -> None:
        """A stream is being sent, or is over: while it is, reading does not pause."""
        self._streaming = streaming
        if streaming:
            self._make_room()

    async def receive(self) -> Message:
        """Return the next message: what the application awaits in place of the server's `receive`.

        Raises:
            UsageError: when messages were dropped because nobody took them while a stream was sent.
        """
        while not self._messages:
            if self._lost:
                raise UsageError(
                    f"a WebSocket was read after {self._limit} bytes of messages had waited unread while a stream"
                    " was sent, and the rest was dropped; read them meanwhile, or raise buffer_limit"
                )
            if self._disconnect is not None:
                return self._disconnect
            if self._error is not None:
                raise self._error
            self.start()
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        message = self._messages.popleft()
        self._held -= _size(message)
        self._make_room()
        return message

    async def _run(self) -> None:
        try:
            while True:
                while self._held >= self._limit and not self._streaming:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
                message = await self._receive()
                if message["type"] == DISCONNECT:
                    break
                if not self._on_message(message):
                    self._put(message)
        except Exception as error:  # noqa: BLE001 - told to whoever asks; the type alone is logged
            logger.warning("a server's receive() raised %s", type(error).__name__)
            self._error = error
        else:
            self._disconnect = message
            self._on_disconnect(message)
        self._wake()

    def _put(self, message: Message) -> None:
        if self._lost or self._held >= self._limit:
            # From the first gap on: what comes after it would be taken for what is missing.
            self._lost = True
            return
        self._messages.append(message)
        self._held += _size(message)
        self._wake()

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _size(message: Message) -> int:
    return len(message.get("bytes") or message.get("text") or "") + _OVERHEAD
