"""`stream_websocket`: one stream over an accepted WebSocket, as messages of JSON with an explicit end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, Unpack

import msgspec

from streamguard_asgi._starlette import Message, WebSocket, WebSocketDisconnect, WebSocketState
from streamguard_asgi.attending import deliver
from streamguard_asgi.delivery import Delivery, RawHeaders
from streamguard_asgi.options import SessionOptions, check_seconds
from streamguard_asgi.request import guard_in
from streamguard_asgi.response import DEFAULT_PING
from streamguard_asgi.socket_guard import SERVICE_RESTART, SocketGuard
from streamguard_core import AnyChunk, Category, Cause, StreamSession, UsageError
from streamguard_core.formats import End, Lines, messages

NORMAL: Final = 1000
_CODES: Final = {
    Category.COMPLETED: NORMAL,
    Category.USER: NORMAL,
    Category.SHUTDOWN: SERVICE_RESTART,
    Category.POLICY: 1008,
}
_FAILED: Final = 1011
_KEEP_ALIVE: Final = '{"text":""}'
"""Nothing to show: a client that appends what comes needs to know of no other message."""


async def stream_websocket(
    websocket: WebSocket,
    content: Any,
    *,
    close: bool = True,
    ping: float | None = DEFAULT_PING,
    consumer_stall: float | None = None,
    **session: Unpack[SessionOptions],
) -> StreamSession:
    """Send what a producer makes over an accepted WebSocket, and return when the stream is over.

    The messages are those of NDJSON, one object each: `{"stream_id": ...}` first, then `{"text": ...}`,
    and `{"eos": {...}}` at the end of every stream. What is ready together and alike is one message.
    The reader may send `{"stop": true}` or `{"stop": "<stream id>"}`, which cancels at once; all else that
    it sends is the application's, which may read meanwhile in another task, or afterwards.

    Needs `StreamGuardMiddleware`, which sees the reader leave in every phase.

    Args:
        websocket: FastAPI's or Starlette's.
        content: a `StreamSession`, or anything that one takes as a producer; best a callable, which is
            called when the stream is open.
        close: close the WebSocket afterwards: 1000 after a completion or a stop, 1008 after a policy's
            decision, 1012 when the server shuts down, 1011 after a failure. False leaves it open for the
            next stream, but for a shutdown.
        ping: longest silence in seconds before an empty text is sent; None for none.
        consumer_stall: see `StreamOptions`.
        session: what the session is built with, if `content` is not one.

    Returns:
        The session: `cause` says how it ended, `await session.receipt()` everything.

    Raises:
        UsageError: when the WebSocket is not accepted, is not under the middleware, or is sending a
            stream already; when a session's options are given for a session that is there already.

    Example:
        >>> async def chat(websocket):
        ...     await websocket.accept()
        ...     async for prompt in websocket.iter_text():
        ...         await stream_websocket(websocket, lambda: answer(prompt), close=False)
    """
    check_seconds(ping=ping, consumer_stall=consumer_stall)
    guard = _guard_of(websocket)
    stream = _session(guard, content, session)
    delivery = SocketDelivery(
        stream, websocket, ping=ping, consumer_stall=consumer_stall or guard.consumer_stall
    )
    await _deliver(guard, stream, delivery)
    cause = stream.cause
    reachable = guard.gone is None and not delivery.stalled
    if reachable and cause is not None and (close or cause is Cause.SHUTDOWN):
        await _close(websocket, cause, guard.close_timeout)
    return stream


def _guard_of(websocket: WebSocket) -> SocketGuard:
    """The guard of an accepted WebSocket."""
    guard = guard_in(websocket.scope)
    if not isinstance(guard, SocketGuard) or not guard.connected:
        raise UsageError(
            "stream_websocket was called for a WebSocket without a guard;"
            " put StreamGuardMiddleware over the application: app.add_middleware(StreamGuardMiddleware)"
        )
    if WebSocketState.CONNECTING in (websocket.application_state, websocket.client_state):
        raise UsageError(
            "stream_websocket was called before the WebSocket was accepted; await websocket.accept() first"
        )
    return guard


async def _deliver(guard: SocketGuard, session: StreamSession, delivery: SocketDelivery) -> None:
    """As `GuardedResponse` does for a request."""
    guard.begin_stream(session)
    try:
        guard.add(session)
        guard.session = guard.session or session
        await deliver(delivery, delivery.run(), guard)
    finally:
        guard.end_stream()
        await guard.close(session)


def _session(guard: SocketGuard, content: Any, given: SessionOptions) -> StreamSession:
    if isinstance(content, StreamSession):
        if given:
            raise UsageError(
                f"{', '.join(given)} were given for a session that is built already; give them to it"
            )
        return content
    usual: dict[str, Any] = {"ledger": guard.ledger, "prices": guard.prices}
    return StreamSession(content, **(usual | dict(given)))


async def _close(websocket: WebSocket, cause: Cause, seconds: float) -> None:
    """Close it, if it is not closed; a reader that does not answer is not waited for."""
    if websocket.application_state is not WebSocketState.CONNECTED:
        return
    closing = websocket.close(_CODES.get(cause.category, _FAILED), str(cause))
    try:
        await asyncio.wait_for(closing, seconds)
    except (OSError, RuntimeError, WebSocketDisconnect):
        pass  # TimeoutError is an OSError; all of them say that there is nobody left to be told.


class SocketDelivery(Delivery):
    """The reader's side of one stream over a WebSocket.

    Args:
        session: what is sent.
        websocket: over what.
        ping: see `Delivery`.
        consumer_stall: see `Delivery`.
    """

    __slots__ = ("_websocket",)

    def __init__(
        self,
        session: StreamSession,
        websocket: WebSocket,
        *,
        ping: float | None,
        consumer_stall: float | None,
    ) -> None:
        super().__init__(
            session, Lines(), self._message_sent, ping=ping, consumer_stall=consumer_stall
        )
        self._websocket = websocket

    async def run(self, status: int = 0, headers: RawHeaders | None = None) -> None:
        """Send the whole stream. Returns also when the reader has left."""
        await super().run(status, headers or [])

    async def _send_head(self, status: int, headers: RawHeaders) -> None:
        await self._sent(_text(msgspec.json.encode({"stream_id": self._session.stream_id})))
        self._arm()

    async def _send_chunks(self, batches: AsyncIterator[list[AnyChunk]]) -> None:
        session = self._session
        async for batch in batches:
            for body in messages(batch):
                if self.away:
                    return
                sending = self._sent(_text(body))
                await (session.beside(sending) if session.reads_ahead else sending)

    async def _send_last(self, end: End) -> None:
        self.complete = True
        await self._sent(_text(msgspec.json.encode({"eos": end})))

    async def _send_ping(self) -> None:
        await self._send({"type": "websocket.send", "text": _KEEP_ALIVE})

    async def _message_sent(self, message: Message) -> None:
        """A send after the close raises on some servers, in several ways, and is silent on others."""
        try:
            await self._websocket.send(message)
        except (WebSocketDisconnect, RuntimeError):
            raise ConnectionResetError("the WebSocket is closed") from None


def _text(body: bytes) -> Message:
    """A text frame; what an application framed itself may be no text."""
    try:
        return {"type": "websocket.send", "text": body.decode()}
    except UnicodeDecodeError:
        return {"type": "websocket.send", "bytes": body}
