"""How many turns of the event loop lie between a disconnect and the close of the producer's iterator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from bench.harness import Bar, Row, Table
from streamguard_core import PASS, StreamSession


class Turns:
    """Counts the turns of the running loop from `begin()` on."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()

    def begin(self) -> None:
        """Count from the next turn on."""
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self.count += 1
        self.begin()


class _Provider:
    """An iterator that is parked where a provider's connection would be read."""

    def __init__(self) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self._turns: Turns | None = None

    def watch(self, turns: Turns) -> None:
        self._turns = turns

    async def chunks(self) -> AsyncIterator[str]:
        try:
            yield "token "
            await asyncio.get_running_loop().create_future()
        finally:
            self.closed.set_result(self._turns.count if self._turns is not None else 0)

    async def run(self, *, out: Callable[[str], Awaitable[None]], cancel_event: object) -> None:
        async for chunk in self.chunks():
            await out(chunk)


class _Passing:
    def decide(self, text_so_far: str, chunk: object) -> Any:
        return PASS


KINDS: Final[dict[str, Callable[[_Provider], StreamSession]]] = {
    "pull": lambda provider: StreamSession(provider.chunks()),
    "pull with one gate": lambda provider: StreamSession(provider.chunks(), gates=[_Passing()]),
    "push run()": StreamSession,
}


async def _turns(make: Callable[[_Provider], StreamSession]) -> int:
    provider, turns = _Provider(), Turns()
    session = make(provider)
    provider.watch(turns)
    reader = asyncio.create_task(_read(session))
    for _ in range(10):  # the reader takes the first chunk and is parked
        await asyncio.sleep(0)
    turns.begin()
    session.disconnected()
    passed: int = await provider.closed
    await reader
    return passed


async def _read(session: StreamSession) -> None:
    async for _ in session:
        pass


async def table() -> Table:
    """One row per way of driving a producer."""
    rows = [Row(name, float(await _turns(make)), bar=Bar(1)) for name, make in KINDS.items()]
    return Table("From the disconnect to the close of the iterator", "loop turns", tuple(rows))
