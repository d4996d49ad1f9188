"""An ASGI server of one request, in the test's own loop, with the quirks that real servers have.

>>> from streamguard_core.testing import ASGIServer, run
>>> async def app(scope, receive, send):
...     await send({"type": "http.response.start", "status": 200, "headers": []})
...     for word in (b"never ", b"generated ", b"for nobody"):
...         await send({"type": "http.response.body", "body": word, "more_body": True})
...     await send({"type": "http.response.body"})
>>> async def main():
...     async with ASGIServer(app, paced=True) as server:
...         first = await server.read()
...         server.leave()
...         await server.ended()
...     return first, server.sent_after_leaving
>>> run(main())
(b'never ', 3)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Literal, Self

SendAfterLeaving = Literal["silent", "raising", "blocking"]
_TIMEOUT = 5.0


class ASGIServer:
    """One request, driven as a server drives it: a single reader gets what `receive` has.

    Args:
        app: the application.
        path, method, headers: the request.
        body: the messages of the body; None for one that never arrives.
        spec: the ASGI version that is announced.
        mode: what `send` does once the reader has left.
        deaf: a second `receive()` after the disconnect waits for ever.
        mute: `receive()` never tells of the disconnect.
        touchy: a cancelled `receive()` makes the next one tell of a disconnect that did not happen.
        state: whether the scope has a `state`.
        paced: what is sent is taken when `read()` asks for it, so that the application is never more than
            one part ahead of its reader; else it is taken at once.
        timeout: longest wait for anything here, in seconds of the loop's time.
    """

    def __init__(
        self,
        app: Any,
        path: str = "/",
        *,
        method: str = "GET",
        headers: list[tuple[bytes, bytes]] | None = None,
        body: Iterable[bytes] | None = (b"",),
        spec: str = "2.3",
        mode: SendAfterLeaving = "silent",
        deaf: bool = True,
        mute: bool = False,
        touchy: bool = True,
        state: bool = True,
        paced: bool = False,
        timeout: float = _TIMEOUT,
    ) -> None:
        self.scope = _scope(path, method, headers or [], spec)
        if state:
            self.scope["state"] = {}
        self._app, self._mode, self._deaf, self._touchy = app, mode, deaf, touchy
        self._mute = mute
        self._paced, self._timeout = paced, timeout
        self._taken = 0
        self._inbox = _messages(list(body) if body is not None else [])
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
        self.task.add_done_callback(lambda _: self._changed.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.task is not None
        if not self.task.done():
            self.task.cancel()
        await asyncio.wait([self.task], timeout=self._timeout)
        if not self.task.done():
            raise AssertionError(
                f"the application does not end within {self._timeout:g} s after it was cancelled"
            )

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
        if self.complete:
            raise AssertionError("a message was sent after the last one")
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self.complete = not message.get("more_body")
            if self._paced:
                self._open.clear()
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

    async def read(self) -> bytes:
        """The next part of the body; empty when the response is complete.

        Raises:
            AssertionError: when the application has ended before its response was complete.
            TimeoutError: when nothing came in time.
            BaseException: what the application raised.
        """
        while True:
            if self._taken == len(self.bodies):
                if self.complete:
                    return b""
                self.resume()
                await self.until(lambda: len(self.bodies) > self._taken)
            self._taken += 1
            if part := self.bodies[self._taken - 1]:
                return part

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
        """Wait until `condition`, which something that is sent makes true.

        Raises:
            AssertionError: when the application has ended and it is not true.
            TimeoutError: when it does not come true in time.
            BaseException: what the application raised.
        """
        assert self.task is not None
        async with asyncio.timeout(self._timeout):
            while not condition():
                if self.task.done():
                    if not self.task.cancelled():
                        self.task.result()
                    raise AssertionError(
                        f"the application has ended, and what was waited for did not come; it sent {self.text[-200:]!r}"
                    )
                self._changed.clear()
                await self._changed.wait()

    async def events_sent(self, count: int) -> None:
        """Wait until so many events were sent."""
        await self.until(lambda: len(self.events) >= count)

    async def ended(self) -> None:
        """Wait until the application has returned; what it raised is raised."""
        assert self.task is not None
        async with asyncio.timeout(self._timeout):
            await asyncio.shield(self.task)

    async def run(self) -> Self:
        """Answer the whole request."""
        async with self:
            await self.ended()
        return self


def _scope(path: str, method: str, headers: list[tuple[bytes, bytes]], spec: str) -> dict[str, Any]:
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": spec},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": headers,
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 4000),
    }


def _messages(parts: list[bytes]) -> list[dict[str, Any]]:
    """The messages in which a body arrives."""
    return [
        {"type": "http.request", "body": part, "more_body": index < len(parts) - 1}
        for index, part in enumerate(parts)
    ]
