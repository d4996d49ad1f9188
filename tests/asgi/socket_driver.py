"""A WebSocket of an ASGI server in the test's own loop, with the differences that real servers have."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any, Literal, Self

from .driver import BOUND, eventually

After = Literal["silent", "OSError", "RuntimeError"]


class Socket:
    """One connection, driven as a server drives it.

    Args:
        app: the application.
        after: what `send` does once the reader has left.
    """

    def __init__(self, app: Any, after: After = "silent") -> None:
        self.scope: dict[str, Any] = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "root_path": "",
            "headers": [],
            "subprotocols": [],
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 4000),
            "state": {},
        }
        self._app, self._after = app, after
        self._inbox: deque[Any] = deque([{"type": "websocket.connect"}])
        self._arrived, self._open = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._arrived.set()
        self.left = False
        self.readers = self.most_readers = self.senders = self.taken = 0
        self.sent: list[Any] = []
        self.closed: tuple[int, str] | None = None
        self.sent_after_leaving = 0
        self.task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._app(self.scope, self.receive, self.send))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.task is not None
        if not self.task.done():
            self.leave()
        await asyncio.wait([self.task], timeout=BOUND)
        assert self.task.done(), "the application does not end"

    # -- what the application calls ----------------------------------------------------------------

    async def receive(self) -> Any:
        """The server's `receive`: one reader at a time, and nothing after the disconnect."""
        self.readers += 1
        self.most_readers = max(self.readers, self.most_readers)
        try:
            while not self._inbox:
                self._arrived.clear()
                await self._arrived.wait()
            self.taken += 1
            return self._inbox.popleft()
        finally:
            self.readers -= 1

    async def send(self, message: Any) -> None:
        """The server's `send`."""
        self.senders += 1
        try:
            await self._open.wait()
        finally:
            self.senders -= 1
        if self.left:
            self.sent_after_leaving += 1
            if self._after != "silent":
                raise (OSError if self._after == "OSError" else RuntimeError)("closed")
            return
        assert self.closed is None, "a message was sent after the close"
        if message["type"] == "websocket.close":
            self.closed = message["code"], message["reason"]
            self._put({"type": "websocket.disconnect", "code": message["code"]})
        elif message["type"] == "websocket.send":
            self.sent.append(message)

    # -- what the reader does ----------------------------------------------------------------------

    def say(self, message: Any) -> None:
        """Send a text frame: as it is, or as JSON."""
        text = message if isinstance(message, str) else json.dumps(message)
        self._put({"type": "websocket.receive", "text": text})

    def leave(self, code: int | None = 1001) -> None:
        """Close, with a code or without."""
        self.left = True
        self._open.set()
        told = {"type": "websocket.disconnect"}
        self._put(told if code is None else {**told, "code": code})

    def stall(self) -> None:
        """Read no more: the next `send` waits."""
        self._open.clear()

    def _put(self, message: Any) -> None:
        self._inbox.append(message)
        self._arrived.set()

    # -- what came ---------------------------------------------------------------------------------

    @property
    def said(self) -> list[Any]:
        """The messages sent, decoded."""
        return [json.loads(message["text"]) for message in self.sent]

    @property
    def text(self) -> str:
        """The text of all of them."""
        return "".join(said.get("text", "") for said in self.said)

    @property
    def ends(self) -> list[Any]:
        """The ends, in order."""
        return [said["eos"] for said in self.said if "eos" in said]

    @property
    def stream_ids(self) -> list[str]:
        """The names of the streams, in order."""
        return [said["stream_id"] for said in self.said if "stream_id" in said]

    async def came(self, text: str) -> None:
        """Wait until this text was sent."""
        await eventually(lambda: text in self.text)

    async def ended(self) -> None:
        """Wait until the application has returned; what it raised is raised."""
        assert self.task is not None
        async with asyncio.timeout(BOUND):
            await asyncio.shield(self.task)
