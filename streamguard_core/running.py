"""Which task runs now, asked once per chunk."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

# The dictionary behind `asyncio.current_task`, which on 3.11 is Python code six times as slow.
running_task: Callable[[Any], asyncio.Task[Any] | None] = (
    asyncio.current_task if sys.version_info >= (3, 12) else asyncio.tasks._current_tasks.get  # type: ignore[attr-defined]
)
"""The task that a loop runs, or None: called with the running loop."""
