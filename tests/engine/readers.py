"""A reader of a token stream over a bare socket, that can leave by close and by reset."""

from __future__ import annotations

import enum
import json
import socket
import struct
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

# What every chunk with text carries once, and the role-only first chunk does not.
TOKEN_MARK = b'"content":"'
# One word of the model's vocabulary, one token.
WORD = "bade"
PATIENCE = 60.0


class Leave(enum.Enum):
    """How a reader leaves: what its operating system tells the server."""

    CLOSE = "close"
    RESET = "reset"


class Reader:
    """One HTTP request whose answer is read a token at a time.

    A library would read ahead and tidy up; this reads what it is told to and leaves as told.

    Args:
        url: The address, on plain HTTP.
        body: A JSON body; makes it a POST.
        receive_buffer: Bytes that the kernel may hold for us; small makes a slow reader.
    """

    def __init__(
        self, url: str, *, body: dict[str, object] | None = None, receive_buffer: int | None = None
    ) -> None:
        self.tokens = 0
        self.ended = False
        self._tail = b""
        self._head = b""
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer is not None:
            # Before the connection: the window that is promised follows from it.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(PATIENCE)
        try:
            self._socket.connect((parts.hostname, parts.port or 80))
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            self._socket.sendall(_request(target, parts.netloc, body))
        except BaseException:
            self._socket.close()
            raise

    def read(self, tokens: int) -> None:
        """Read on until `tokens` tokens have come in all.

        Raises:
            RuntimeError: When the answer ends before that; says how it began.
        """
        while self.tokens < tokens:
            if not self._take():
                raise RuntimeError(
                    f"reading {tokens} tokens: the answer ended after {self.tokens}; "
                    f"it began {self._head[:400]!r}"
                )

    def read_to_end(self) -> int:
        """Read until the server closes; returns how many tokens came in all."""
        while self._take():
            pass
        return self.tokens

    def leave(self, how: Leave) -> None:
        """Go away now.

        A close takes what has arrived first: with unread bytes the kernel would send a reset.
        """
        if how is Leave.RESET:
            on_with_no_time = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, on_with_no_time)
        else:
            self._socket.setblocking(False)
            try:
                self._socket.recv(1 << 20)
            except BlockingIOError:
                pass
        self._socket.close()

    def _take(self) -> bool:
        """Take what has arrived, waiting for at least one byte; False at the end."""
        data = self._socket.recv(1 << 16)
        if not data:
            self.ended = True
            return False
        if len(self._head) < 400:
            self._head += data
        text = self._tail + data
        self.tokens += text.count(TOKEN_MARK)
        # A mark that is split between two reads is found in the second one.
        self._tail = text[-(len(TOKEN_MARK) - 1) :]
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()


def chat_request(max_tokens: int, *, words: int = 4) -> dict[str, object]:
    """The body of a streamed chat request of about `words` prompt tokens."""
    prompt = " ".join([WORD] * words)
    return {
        "model": "random",
        "stream": True,
        "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": prompt}],
    }


def _request(target: str, host: str, body: dict[str, object] | None) -> bytes:
    head = f"Host: {host}\r\nConnection: close\r\n"
    if body is None:
        return f"GET {target} HTTP/1.1\r\n{head}\r\n".encode()
    content = json.dumps(body)
    head += f"Content-Type: application/json\r\nContent-Length: {len(content.encode())}\r\n"
    return f"POST {target} HTTP/1.1\r\n{head}\r\n{content}".encode()
