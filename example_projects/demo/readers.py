"""The demo's readers: they ask, and leave before the first token or mid-stream."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from enum import StrEnum

from engines import Engine, Seen

from streamguard_testing import Leave, RawClient

READ = 12
"""Events a reader takes before it leaves mid-stream."""
STALL = 1.5
"""Seconds the slow reader reads nothing before it leaves: by then the application cannot send."""
PAD = 4096
"""Bytes of metadata per chunk of the slow reader's stream."""
HURRY = 0.4
"""Seconds a reader waits for the first token before it leaves."""
PATIENCE = 30.0


class Phase(StrEnum):
    """When the reader leaves."""

    THINKING = "before the first token"
    MIDSTREAM = "mid-stream"


@dataclass(frozen=True)
class Pattern:
    """One way of streaming: its route, and whether it takes a slow reader to go wrong."""

    name: str
    path: str
    slow: bool = False


PATTERNS = (
    Pattern("sync generator", "/sync-generator"),
    Pattern("producer task", "/producer-task"),
    Pattern("opened early", "/opened-early"),
    Pattern("base middleware", "/behind/base-middleware", slow=True),
)


async def leave(
    engine: Engine, app_url: str, pattern: Pattern, phase: Phase, call: str, max_tokens: int
) -> Seen:
    """Ask, leave, and wait for what it cost."""
    slow = pattern.slow and phase is Phase.MIDSTREAM
    query = f"?max_tokens={max_tokens}&call={call}&pad={PAD if slow else 0}"
    client = await RawClient.open(
        app_url, path=pattern.path + query, receive_buffer=PAD if slow else None, timeout=PATIENCE
    )
    async with client:
        await _until_started(engine, call)
        if phase is Phase.THINKING:
            await asyncio.sleep(HURRY)
        else:
            await client.read_until(1 if slow else READ)
            await asyncio.sleep(STALL if slow else 0)
        left_at = client.leave(Leave.RESET if slow else Leave.CLOSE)
    return await engine.watch(call, left_at, PATIENCE)


async def _until_started(engine: Engine, call: str) -> None:
    """Wait until the call has reached the engine: leaving earlier would prove nothing."""
    deadline = time.monotonic() + PATIENCE
    while not await asyncio.to_thread(engine.started, call):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the call {call} did not reach the engine within {PATIENCE:g} s")
        await asyncio.sleep(0.01)
