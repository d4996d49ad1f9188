"""Where the receipts of a test come, without any model's package."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from streamguard_core import Receipt

BOUND = 10.0
"""Seconds in which what must come has come, on a busy machine as well."""


async def eventually(condition: Callable[[], Any]) -> None:
    """Let the loop turn until `condition` holds."""
    give_up = time.monotonic() + BOUND
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"it did not become true within {BOUND} s")
        await asyncio.sleep(0.002)


class Receipts(list[Receipt]):
    """What `on_receipt` was called with."""

    @property
    def one(self) -> Receipt:
        """The only one."""
        (receipt,) = self
        return receipt

    async def come(self, count: int = 1) -> None:
        """Wait until there are so many."""
        await eventually(lambda: len(self) >= count)
