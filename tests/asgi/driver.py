"""An ASGI server in the test's own loop, with the quirks that real servers have."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, Literal, Self

from streamguard_core import Cause, Receipt

Mode = Literal["silent", "raising", "blocking"]
Wire = list[tuple[bytes, bytes]]
BOUND = 5.0
"""Longest time a test waits for what must come."""


class Server:
    """One request, driven as a server drives it: a single reader gets what `receive` has.

    Args:
        app: the application.
        method, path, headers: the request.
        body: the messages of the body; None for one that never arrives.
        spec: the ASGI version that is announced.
        mode: what `send` does once the reader has left.
        deaf: a second `receive()` after the disconnect waits for ever.
        mute: `receive()` never tells of the disconnect.
        touchy: a cancelled `receive()` makes the next one tell of a disconnect that did not happen.
        state: whether the scope has a `state`.
    """

    def __init__(
        self,
        app: Any,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Wire | None = None,
        body: Iterable[bytes] | None = (b"",),
        spec: str = "2.3",
        mode: Mode = "silent",
        deaf: bool = True,
        mute: bool = False,
        touchy: bool = True,
        state: bool = True,
    ) -> None:
        path, _, query = path.partition("?")
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": spec},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": headers or [],
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 4000),
        }
        if state:
            self.scope["state"] = {}
        self._app, self._mode, self._deaf, self._touchy = app, mode, deaf, touchy
        self._mute = mute
        parts = list(body) if body is not None else []
        self._inbox = [
            {"type": "http.request", "body": part, "more_body": index < len(parts) - 1}
            for index, part in enumerate(parts)
        ]
        self._left = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()
        self._changed = asyncio.Event()
        self._told = False
        self.receives = 0
        self.readers = self.most_readers = 0
        self.senders = self.most_senders = 0
        self.sent: list[Any] = []
        self.sent_after_leaving = 0
        self.complete = False
        self.task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.task = asyncio.get_running_loop().create_task(
            self._app(self.scope, self.receive, self.send)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.task is not None
        if not self.task.done():
            self.task.cancel()
        await asyncio.wait([self.task], timeout=BOUND)
        assert self.task.done(), "the application does not end"

    # -- what the application calls ----------------------------------------------------------------

    async def receive(self) -> Any:
        """The server's `receive`."""
        self.receives += 1
        self.readers += 1
        self.most_readers = max(self.most_readers, self.readers)
        try:
            if self._inbox:
                return self._inbox.pop(0)
            await self._left.wait()
            if self._mute or (self._told and self._deaf):
                await asyncio.Event().wait()
            self._told = True
            return {"type": "http.disconnect"}
        except asyncio.CancelledError:
            if self._touchy:
                self._left.set()
            raise
        finally:
            self.readers -= 1

    async def send(self, message: Any) -> None:
        """The server's `send`."""
        self.senders += 1
        self.most_senders = max(self.most_senders, self.senders)
        try:
            await self._open.wait()
            if self._left.is_set() and not self.complete:
                self.sent_after_leaving += 1
                await self._after_leaving()
                return
        finally:
            self.senders -= 1
        assert not self.complete, "a message was sent after the last one"
        self.sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.complete = True
        self._changed.set()

    async def _after_leaving(self) -> None:
        if self._mode == "raising":
            raise OSError("the connection is gone")
        if self._mode == "blocking":
            await asyncio.Event().wait()

    # -- what the reader does ----------------------------------------------------------------------

    def leave(self, *, release: bool = True) -> None:
        """Close the connection; servers release a `send` that waits for the reader then."""
        self._left.set()
        if release:
            self._open.set()

    def stall(self) -> None:
        """Read no more: the next `send` waits."""
        self._open.clear()

    def resume(self) -> None:
        """Read on."""
        self._open.set()

    def arrive(self, body: bytes, *, more: bool) -> None:
        """Another part of the body comes. Only before anybody waits for it."""
        self._inbox.append({"type": "http.request", "body": body, "more_body": more})

    # -- what came ---------------------------------------------------------------------------------

    @property
    def status(self) -> int:
        """The status of the response."""
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def bodies(self) -> list[bytes]:
        """The bodies sent, one for each `send`."""
        return [
            message.get("body", b"") for message in self.sent if message["type"].endswith(".body")
        ]

    @property
    def text(self) -> str:
        """All that was sent."""
        return b"".join(self.bodies).decode()

    @property
    def events(self) -> list[tuple[str, str]]:
        """Name and data of each event sent; comments have none."""
        found = []
        for block in self.text.split("\n\n"):
            lines = block.split("\n")
            data = [line[6:] for line in lines if line.startswith("data: ")]
            names = [line[7:] for line in lines if line.startswith("event: ")]
            if data:
                found.append((names[0] if names else "message", "\n".join(data)))
        return found

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition`, which something that is sent makes true."""
        async with asyncio.timeout(BOUND):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def events_sent(self, count: int) -> None:
        """Wait until so many events were sent."""
        await self.until(lambda: len(self.events) >= count)

    async def ended(self) -> None:
        """Wait until the application has returned; what it raised is raised."""
        assert self.task is not None
        async with asyncio.timeout(BOUND):
            await asyncio.shield(self.task)

    async def run(self) -> Self:
        """Answer the whole request."""
        async with self:
            await self.ended()
        return self


async def eventually(condition: Callable[[], Any]) -> None:
    """Let the loop turn until `condition` holds; bounded in real time, also where the loop's is virtual."""
    give_up = time.monotonic() + BOUND
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"it did not become true within {BOUND} s")
        await asyncio.sleep(0)


def eos(server: Server) -> dict[str, Any]:
    """The data of the one `eos`, which is the last event."""
    named = [data for name, data in server.events if name == "eos"]
    assert len(named) == 1
    assert server.events[-1] == ("eos", named[0])
    said: dict[str, Any] = json.loads(named[0])
    return said


def causes(receipts: list[Receipt]) -> list[Cause]:
    """The causes of some receipts."""
    return [receipt.cause for receipt in receipts]


class Engine:
    """A provider whose tokens come when the test says so, and that knows when it was let go.

    Args:
        tokens: how many it makes by itself; then it waits for `make()`.
        size: characters of a token.
    """

    def __init__(self, tokens: int = 0, size: int = 0) -> None:
        self._size = size
        self.generated = 0
        self.started = False
        self.closed = False
        self.asked = False
        """Somebody waits for a token that is not there yet."""
        self._allowed = tokens
        self._over = False
        self._changed = asyncio.Event()

    def make(self, count: int = 1) -> None:
        """Make so many tokens more."""
        self._allowed += count
        self._changed.set()

    def finish(self) -> None:
        """Come to the end after the tokens that were allowed."""
        self._over = True
        self._changed.set()

    async def stream(self) -> AsyncGenerator[str, None]:
        """The tokens, as an async generator."""
        self.started = True
        try:
            while self._allowed or not self._over:
                if not self._allowed:
                    self._changed.clear()
                    self.asked = True
                    await self._changed.wait()
                    self.asked = False
                    continue
                self._allowed -= 1
                self.generated += 1
                yield f"token{self.generated} ".ljust(self._size)
        finally:
            self.closed = True
