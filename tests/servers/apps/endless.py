"""What the deployed applications stream: numbers, which come to no end by themselves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

NEVER = threading.Event()
PAUSE = 0.3
"""Seconds between two numbers, but for the first ones, which come at once."""


async def numbers(count: int | None = None) -> AsyncIterator[str]:
    """So many numbers; without `count` for ever."""
    number = 0
    while count is None or number < count:
        yield f"{number}\n"
        number += 1
        await asyncio.sleep(PAUSE if number > 2 else 0)


def blocking(count: int | None = None) -> Iterator[str]:
    """The same for threads."""
    number = 0
    while count is None or number < count:
        yield f"{number}\n"
        number += 1
        NEVER.wait(PAUSE if number > 2 else 0)
