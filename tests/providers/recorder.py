"""A report that writes everything down, and a drive that puts a producer's chunks into it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from streamguard_core import AnyChunk, Attempt, Usage


class Recorder:
    """A report that writes everything down; also the `out` of the push contract."""

    def __init__(self, *, cut: bool = False) -> None:
        self.was_cut = cut
        self.connections = 0
        self.finishes: list[tuple[str | None, Usage | None]] = []
        self.names: list[tuple[str | None, str | None]] = []
        self.attempts: list[Attempt] = []
        self.closers: list[Callable[[], None]] = []
        self.chunks: list[AnyChunk] = []

    def connected(self) -> None:
        self.connections += 1

    def finish(self, reason: str | None = None, usage: Usage | None = None) -> None:
        self.finishes.append((reason, usage))

    def identify(self, *, model: str | None = None, request_id: str | None = None) -> None:
        self.names.append((model, request_id))

    def attempt(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    def on_close(self, callback: Callable[[], None]) -> Callable[[], None]:
        if self.was_cut:
            callback()
            return lambda: None
        self.closers.append(callback)
        return lambda: self.closers.remove(callback)

    def cut(self) -> None:
        """The cutoff: call everybody who wants to know, as a session does."""
        self.was_cut = True
        for closer in tuple(self.closers):
            closer()

    async def __call__(self, token: AnyChunk) -> None:
        self.chunks.append(token)

    @property
    def usage(self) -> Usage | None:
        """The usage that was reported last."""
        return self.finishes[-1][1] if self.finishes else None


async def produce(producer: Any, report: Recorder, contract: str = "pull") -> list[AnyChunk]:
    """Drive a producer to its end; the report keeps the chunks, too."""
    if contract == "push":
        await producer.run(out=report, cancel_event=asyncio.Event())
        return report.chunks
    async for batch in producer.stream(report=report):
        assert batch, "a batch is never empty"
        report.chunks += batch
    return report.chunks
