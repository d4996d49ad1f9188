"""Clients: a reader on a raw socket that reads only when told to, and leaves as it is told."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, Self
from urllib.parse import urlsplit

from streamguard_testing import http1

_MAX_BODY: Final = 64 * 1024 * 1024


class Leave(StrEnum):
    """How a reader leaves."""

    CLOSE = "close"  #: FIN (a RST follows if something unread is left, as the kernel does it)
    RESET = "reset"  #: RST at once
    HALF_CLOSE = "half_close"  #: FIN for what is sent; can still read


class RawClient:
    """One request on one socket, of which nothing is read unless a method here reads it.

    Example:
        >>> async def leave_after_three(url: str) -> float:
        ...     body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        ...     async with await RawClient.open(url, "POST", "/api/chat", body) as client:
        ...         await client.read_until(3)
        ...         return client.leave("reset")
    """

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self._socket = sock
        self._timeout = timeout
        self._parser = http1.ResponseParser(_MAX_BODY)
        self._unread = b""
        self._eof = False
        #: The instant at which the request was sent.
        self.sent_at = 0.0
        #: The instant just before the socket was closed, reset or half-closed.
        self.left_at: float | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        method: str = "GET",
        path: str = "",
        body: Mapping[str, Any] | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        receive_buffer: int | None = None,
        timeout: float = 10.0,
    ) -> Self:
        """Connect and send a request.

        Args:
            url: Base URL, `http://host:port`, with a path or without.
            method: The method.
            path: Put behind the URL's path.
            body: A JSON object, or bytes as they are.
            headers: Further headers.
            receive_buffer: Size of the kernel's receive buffer: small for a reader that stalls.
            timeout: Longest time one call may take.

        Raises:
            OSError: When nobody listens there.
            TimeoutError: When it took too long.
        """
        parts = urlsplit(url)
        host, port = parts.hostname or "127.0.0.1", parts.port or 80
        sock = _new_socket(host, receive_buffer)
        client = cls(sock, timeout)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_connect(sock, (host, port))
            target = (parts.path.rstrip("/") + path) or "/"
            await client._send(method, target, parts.netloc, body, headers or {})
        except BaseException:
            sock.close()
            raise
        return client

    async def _send(
        self,
        method: str,
        target: str,
        host: str,
        body: Mapping[str, Any] | bytes | None,
        headers: Mapping[str, str],
    ) -> None:
        said = {"host": host, "accept": "*/*", "content-type": "application/json", **headers}
        data = b"" if body is None else body if isinstance(body, bytes) else _json(body)
        async with asyncio.timeout(self._timeout):
            await asyncio.get_running_loop().sock_sendall(
                self._socket, http1.request(method, target, said, data)
            )
        self.sent_at = time.monotonic()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._socket.fileno() >= 0:
            self.leave()

    # ------------------------------------------------------------ reading

    @property
    def status(self) -> int:
        """The status; 0 as long as the head has not been read."""
        return self._parser.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, with names in small letters."""
        return self._parser.headers

    @property
    def complete(self) -> bool:
        """Whether the body came to the end that HTTP demands."""
        return self._parser.complete

    @property
    def closed(self) -> bool:
        """Whether this reader has closed its socket."""
        return self._socket.fileno() < 0

    @property
    def truncated(self) -> bool:
        """Whether the connection ended before the body did."""
        return self._eof and not self._parser.complete

    async def read_head(self) -> int:
        """Read the head, and return the status; 0 if the connection ended first."""
        while not self._parser.head_complete and not self._eof:
            self._unread += await self._read()
        return self.status

    async def read_some(self) -> bytes:
        """Return some of the body, without framing; nothing at its end.

        Raises:
            ConnectionError: When the connection was reset, or this reader has left.
            TimeoutError: When nothing came.
        """
        while not self._unread and not self.complete and not self._eof:
            self._unread += await self._read()
        data, self._unread = self._unread, b""
        return data

    async def read_until(self, n_events: int) -> list[str]:
        """Read this many events (SSE data, or NDJSON lines) and return them; fewer at the end.

        What was read beyond them is kept for the next call.
        """
        taken: list[str] = []
        text = b""
        while len(taken) < n_events:
            event, rest = _split_event(text, self.headers.get("content-type", ""))
            if rest is None:
                more = await self.read_some()
                if not more:
                    break
                text += more
                continue
            text = rest
            if event is not None:
                taken.append(event)
        self._unread = text + self._unread
        return taken

    async def read_to_end(self) -> bytes:
        """Return the rest of the body."""
        parts = []
        while data := await self.read_some():
            parts.append(data)
        return b"".join(parts)

    async def _read(self) -> bytes:
        if self._socket.fileno() < 0:
            raise ConnectionError("reading is not allowed: this reader has left")
        try:
            async with asyncio.timeout(self._timeout):
                data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
        except TimeoutError:
            raise TimeoutError(f"nothing came to this reader for {self._timeout:g} s") from None
        if not data:
            self._eof = True
            self._parser.eof()
        return self._parser.feed(data) if data else b""

    # ------------------------------------------------------------ leaving

    def leave(self, how: Leave | str = Leave.CLOSE) -> float:
        """Leave, and return the instant just before.

        Args:
            how: `close` (FIN), `reset` (RST) or `half_close` (FIN, and can still read).

        Raises:
            ConnectionError: When this reader has left already.
            ValueError: When there is no such way to leave.
        """
        how = Leave(how)
        if self._socket.fileno() < 0:
            raise ConnectionError("leave() is not allowed: this reader has left")
        self.left_at = time.monotonic()
        if how is Leave.HALF_CLOSE:
            self._socket.shutdown(socket.SHUT_WR)
            return self.left_at
        if how is Leave.RESET:
            # Linger of zero seconds: the kernel sends RST where FIN would have been.
            linger = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._socket.close()
        return self.left_at


def _new_socket(host: str, receive_buffer: int | None) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setblocking(False)
    if receive_buffer is not None:
        # Before it connects: the window is agreed upon then.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    return sock


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()


def _split_event(text: bytes, content_type: str) -> tuple[str | None, bytes | None]:
    """Split one event off; no rest when there is none yet, no event when it has no data."""
    if content_type.startswith("text/event-stream"):
        block, end, rest = text.replace(b"\r\n", b"\n").partition(b"\n\n")
        if not end:
            return None, None
        lines = block.decode("utf-8", "replace").split("\n")
        data = [line[5:].removeprefix(" ") for line in lines if line.startswith("data:")]
        return ("\n".join(data) if data else None), rest
    line, end, rest = text.partition(b"\n")
    if not end:
        return None, None
    said = line.decode("utf-8", "replace").strip()
    return (said or None), rest
