"""What a test waits for: a condition with a bound, or the outcome of an awaitable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], object], timeout: float = 5.0) -> None:
    """Wait until something real is so."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not become true within {timeout} s")
        await asyncio.sleep(0.001)


async def outcome(awaitable: Awaitable[object]) -> object:
    """What an awaitable returns, or the exception it raises."""
    try:
        return await awaitable
    except Exception as error:  # noqa: BLE001 - that is what was asked for
        return error
