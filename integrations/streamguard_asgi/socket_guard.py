"""One WebSocket under guard: its streams, their receipts, what its reader says, and that it has left."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final

import msgspec

from streamguard_asgi._starlette import Message, Receive, Send
from streamguard_asgi.request import RequestGuard
from streamguard_asgi.socket_pump import SocketPump
from streamguard_core import Cause, Governed, Receipt, RecordedStream, StreamSession, UsageError
from streamguard_core.receive import DEFAULT_LIMIT

KEPT: Final = 32
"""How many sealed streams of a connection are remembered: it may live for days."""
SERVICE_RESTART: Final = 1012
_NO_STATUS: Final = 1005
_MAX_CONTROL: Final = 1024
"""Longest message that is looked at for a stop, in characters."""


class SocketGuard(RequestGuard):
    """What `websocket.state.streamguard` and `current_scope()` are: the scope of one WebSocket connection.

    As `RequestGuard`, but that many streams may follow one another; `receipts` are those of the latest 32.
    """

    _socket: SocketPump | None = None
    _stream: StreamSession | None = None
    _has_streamed = False

    def connect(  # type: ignore[override]
        self, receive: Receive, send: Send | None = None, limit: int = DEFAULT_LIMIT
    ) -> SocketPump:
        """Become the one reader of the server's `receive`, and see what goes through its `send`."""
        self._pump = self._socket = SocketPump(receive, self._said, self._closed, limit)
        self._server = self._send = send
        return self._socket

    def send(self, message: Message) -> Awaitable[None]:
        """What the application awaits in place of the server's `send`."""
        assert self._send is not None
        if message["type"] == "websocket.close":
            self.responded = True
            for stream in self._streams:
                if stream.cause is None:
                    stream.terminate(Cause.OPERATOR_CANCEL, "the application closed the WebSocket")
        return self._send(message)

    # -- a stream over this connection ---------------------------------------------------------------

    def begin_stream(self, session: StreamSession) -> None:
        """A stream is sent from now on: the reader may stop it, and its other messages are kept apart.

        Raises:
            UsageError: when there is one already.
        """
        if self._stream is not None:
            raise UsageError(
                "a stream was to be sent over a WebSocket that is sending one; await the first, or stop it"
            )
        self._stream, self._has_streamed = session, True
        if self._socket is not None:
            self._socket.start()
            self._socket.response_streams()

    def end_stream(self) -> None:
        """It is over."""
        self._stream = None
        if self._socket is not None:
            self._socket.response_streams(False)

    def _said(self, message: Message) -> bool:
        """Heed `{"stop": ...}`. One that is late, or names another stream, is ignored; but it is ours."""
        if not self._has_streamed:
            return False
        stopped = stop_in(message)
        if stopped is None:
            return False
        stream = self._stream
        if stream is not None and stopped in (True, stream.stream_id):
            stream.cancel("the reader said stop")
        return True

    def _closed(self, message: Message) -> None:
        code = message.get("code") or _NO_STATUS
        if self.responded:
            return
        detail = f"the WebSocket was closed ({int(code)})"
        if code == SERVICE_RESTART:
            # Servers that are told to go say this in the reader's place; no browser can.
            for stream in self._streams:
                if stream.cause is None:
                    stream.terminate(Cause.SHUTDOWN, detail)
        self.disconnected(detail)

    # -- what it remembers ---------------------------------------------------------------------------

    def add(self, member: Governed) -> None:
        """Put a session or a provider call under this connection."""
        super().add(member)
        if isinstance(member, StreamSession | RecordedStream):
            self._forget()

    def _sealed(self, session: StreamSession, receipt: Receipt) -> None:
        super()._sealed(session, receipt)
        if session in self.sessions:
            self.sessions.remove(session)
        self._forget()

    def _forget(self) -> None:
        while len(self._streams) > KEPT and self._streams[0].sealed is not None:
            del self._streams[0]


def stop_in(message: Message) -> object:
    """What a message of the reader wants stopped: a stream's id, or True; None when it is no such message.

    Only text frames are looked at, and only short ones: an application's own are left alone.
    """
    text = message.get("text")
    if not text or len(text) > _MAX_CONTROL or not text.lstrip().startswith("{"):
        return None
    try:
        said: Any = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    return said.get("stop")
