"""What tests of an adapter drive it with: the server of one request, and a provider in the test's hands."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, ParamSpec

from streamguard_core import Cause, Receipt
from streamguard_core.testing import ASGIServer, run
from streamguard_core.testing.asgi_server import SendAfterLeaving

P = ParamSpec("P")
Server = ASGIServer
Mode = SendAfterLeaving
Wire = list[tuple[bytes, bytes]]
BOUND = 5.0
"""Longest time a test waits for what must come."""


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on a loop whose clock jumps to the next timer.

    Not for real sockets, nor for `eventually` where time has to pass: it never lets the loop be idle.
    """

    @functools.wraps(test)
    def timeless(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return timeless


class Lifespan:
    """A server's lifespan, message by message."""

    def __init__(self, app: Any) -> None:
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[str] = []
        self.task = asyncio.create_task(app({"type": "lifespan"}, self.messages.get, self.send))

    async def send(self, message: Any) -> None:
        """The server's `send`."""
        self.sent.append(message["type"])

    async def say(self, what: str) -> None:
        """Tell the application, and wait for its answer."""
        self.messages.put_nowait({"type": f"lifespan.{what}"})
        await eventually(lambda: f"lifespan.{what}.complete" in self.sent)


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


class Careful:
    """A producer whose clean-up takes until the test lets it go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.order: list[str] = []
        """What happened, in order; the test adds to it."""

    async def stream(self) -> AsyncGenerator[str, None]:
        """One token, then none, and a clean-up."""
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            await self.let_go.wait()
            self.order.append("cleaned")


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
