"""Connection: one socket of the engine, which notices at once when its reader leaves."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import Mapping
from typing import Protocol, cast

from streamguard_testing.bodies import encode
from streamguard_testing.faults import Cut
from streamguard_testing.generation import Generation
from streamguard_testing.http1 import LAST_CHUNK, HttpError, Request, RequestParser, chunk, head
from streamguard_testing.records import LeftBy, LiveRequest
from streamguard_testing.settings import EngineSettings


class Host(Protocol):
    """What a connection asks of the engine it belongs to."""

    settings: EngineSettings

    def opened(self, connection: Connection) -> bool:
        """Take a new connection in; False when there are too many."""

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""

    def answer(self, request: Request, response: Response, opened_at: float) -> Generation | None:
        """Answer a request: at once, or by handing back a generation to be run."""

    def ended(self, live: LiveRequest) -> None:
        """Take note that a generation is over."""


class Connection(asyncio.Protocol):
    """Reads requests one after the other, runs their generations, and watches the socket meanwhile.

    Reading is never paused: that is how a close is noticed in every phase, also while nothing is
    written. What a client sends meanwhile is bounded instead.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._parser = RequestParser(host.settings.max_body_bytes)
        self._transport: asyncio.Transport | None = None
        self._running: tuple[Generation, Response] | None = None
        self._task: asyncio.Task[None] | None = None
        # Bounded, because a connection that is kept alive may bring requests for ever.
        self._records: deque[LiveRequest] = deque(maxlen=1000)
        self._eof = False
        self._opened_at = 0.0
        #: Set while no more is unsent than `watch` allows.
        self.low = asyncio.Event()
        self.low.set()

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket over."""
        self._opened_at = time.monotonic()
        # Not isinstance: uvloop's transports are of no asyncio class.
        self._transport = cast("asyncio.Transport", transport)
        size = self._host.settings.send_buffer
        if size is not None:
            _socket(self._transport).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        self.watch()
        if not self._host.opened(self):
            self._reject(HttpError(503, "too many connections"))

    def data_received(self, data: bytes) -> None:
        """Take bytes in, and start on the next request if none is being answered."""
        self._parser.feed(data)
        if self._task is None:
            self._next()
        elif self._parser.buffered > self._host.settings.max_body_bytes:
            self._reject(HttpError(413, "more was sent than one request may have"))

    def eof_received(self) -> bool:
        """Notice that the reader has closed (or half-closed: no server can tell) its side."""
        self._eof = True
        return self._left(LeftBy.CLOSE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Notice that the connection is gone, and let everybody know."""
        # Without an exception it was closed by us, or after the end of file that was seen above.
        if exc is not None:
            self._left(LeftBy.RESET)
        self._transport = None
        self.low.set()
        for live in self._records:
            live.connection_closed_at = time.monotonic()
            live.changed()
        self._host.closed(self)

    def pause_writing(self) -> None:
        """Note that too much is unsent."""
        self.low.clear()

    def resume_writing(self) -> None:
        """Note that the kernel has taken what was unsent."""
        self.low.set()

    # ------------------------------------------------------------ requests

    def _next(self) -> None:
        if self._task is not None or self.gone:
            return
        try:
            request = self._parser.next_request()
        except HttpError as error:
            self._reject(error)
            return
        if request is not None:
            self._take_on(request)
        elif self._parser.wants_continue:
            self._parser.wants_continue = False
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _take_on(self, request: Request) -> None:
        response = Response(self, request)
        generation = self._host.answer(request, response, self._opened_at)
        if generation is None:
            self._after(response)
            return
        self._records.append(generation.live)
        self._running = generation, response
        self._task = generation.begin()
        self._task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        assert self._running is not None
        generation, response = self._running
        self._task = self._running = None
        generation.ended()
        self._host.ended(generation.live)
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the engine failed to answer a request", "exception": error}
            )
        self._after(response)

    def _after(self, response: Response) -> None:
        """Go on to the next request, or close."""
        if self._transport is None:
            return
        if self._eof or not response.reusable:
            self._transport.close()
        elif self._parser.buffered:
            asyncio.get_running_loop().call_soon(self._next)

    def _reject(self, error: HttpError) -> None:
        """Answer what is no request, and close; a running answer is abandoned."""
        if self._task is not None or self._transport is None:
            self.abort()
            return
        response = Response(self, Request("", "", "HTTP/1.0"))
        response.whole(error.status, "application/json", encode({"error": str(error)}))
        self._transport.close()

    def _left(self, left_by: LeftBy) -> bool:
        """Let go of a running answer, at once; tell whether the socket is to stay open for it."""
        if self._running is None:
            return False
        generation = self._running[0]
        generation.live.notice(left_by)
        if generation.ignore_close:
            return True
        self.abort()
        return False

    def abort(self) -> None:
        """Let go of the socket and of the answer, now."""
        if self._task is not None:
            self._task.cancel()
        self.drop()

    # ------------------------------------------------------------ writing

    @property
    def gone(self) -> bool:
        """Whether nothing can be written any more."""
        return self._transport is None or self._transport.is_closing()

    def send(self, data: bytes) -> None:
        """Write, unless nobody is there."""
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def watch(self, unsent: int | None = None) -> None:
        """Keep `low` cleared while more than this is unsent; the engine's own bound when None."""
        if unsent is None:
            unsent = self._host.settings.max_unsent_bytes
        if self._transport is not None and not self._transport.is_closing():
            self._transport.set_write_buffer_limits(high=unsent, low=unsent)

    def drop(self, *, reset: bool = False) -> None:
        """Close the socket without another byte."""
        if self._transport is None:
            return
        if reset:
            # Linger of zero seconds: the kernel sends RST where FIN would have been.
            linger = struct.pack("ii", 1, 0)
            _socket(self._transport).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()


class Response:
    """The way from one answer to its reader (a `Responder`)."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self._chunked = request.version == "HTTP/1.1"
        self._keep_alive = request.keep_alive
        self._live: LiveRequest | None = None
        self._extra: Mapping[str, str] = {}
        self._started = False
        self._complete = False

    def belongs_to(self, live: LiveRequest, extra: Mapping[str, str]) -> None:
        """Write the record of this request along, and tell the reader its id and extra headers."""
        self._live, self._extra = live, extra

    @property
    def reusable(self) -> bool:
        """Whether another request may follow on this connection."""
        return self._complete and self._keep_alive and (self._chunked or not self._started)

    @property
    def gone(self) -> bool:
        """Whether there is nobody left to write to."""
        return self._connection.gone

    def start(self, status: int, content_type: str) -> None:
        """Send the head of a streamed response, once."""
        if self._started:
            return
        self._started = True
        framing = {"transfer-encoding": "chunked"} if self._chunked else {"connection": "close"}
        self._head(status, {"content-type": content_type, "cache-control": "no-cache", **framing})

    def write(self, data: bytes) -> None:
        """Send a piece of a streamed response."""
        self._connection.send(chunk(data) if self._chunked else data)

    def finish(self) -> None:
        """Send what ends a streamed response in HTTP."""
        self._complete = True
        if self._chunked:
            self._connection.send(LAST_CHUNK)

    def whole(
        self, status: int, content_type: str, body: bytes, retry_after: int | None = None
    ) -> None:
        """Send a response in one piece."""
        headers = {"content-type": content_type, "content-length": str(len(body))}
        if retry_after is not None:
            headers["retry-after"] = str(retry_after)
        if not (self._chunked and self._keep_alive):
            headers["connection"] = "keep-alive" if self._keep_alive else "close"
        self._complete = True
        self._head(status, headers, body)

    def cut(self, how: Cut) -> None:
        """End the response where it is."""
        if how is Cut.CLEAN and self._started:
            self.finish()
        else:
            self._connection.drop(reset=how is Cut.RESET)

    async def writable(self) -> bool:
        """Wait while too much is unsent; tell whether there was anything to wait for."""
        if self._connection.low.is_set():
            return False
        await self._connection.low.wait()
        return True

    async def flushed(self) -> None:
        """Wait until the kernel has everything, or nobody is there any more."""
        self._connection.watch(0)
        try:
            await self._connection.low.wait()
        finally:
            self._connection.watch()

    def _head(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        if self._live is not None:
            headers["x-engine-request-id"] = headers["x-generation-id"] = self._live.id
            headers |= self._extra
            if not self._connection.gone:
                self._live.first_byte_at = time.monotonic()
        self._connection.send(head(status, headers) + body)


def _socket(transport: asyncio.Transport) -> socket.socket:
    found: socket.socket = transport.get_extra_info("socket")
    return found
