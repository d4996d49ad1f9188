"""Closes the generators of a chain that LangChain itself leaves behind when the chain is left."""

from __future__ import annotations

import asyncio
import logging
import weakref
from types import FrameType
from typing import Any, Final

from streamguard_core.generators import Generator
from streamguard_langchain.frames import is_chain, is_sdk
from streamguard_langchain.stopping import ChainStopped

logger = logging.getLogger("streamguard")

_LONGEST: Final = 1.0
"""Seconds for what still runs to heed its cancellation."""
_ROUNDS: Final = 8
"""What is closed may have begun another generator meanwhile; not for ever."""


class Begun:
    """The async generators that LangChain and its models have begun in one chain, on one event loop.

    A `RunnableParallel` that is left closes none of its branches: whatever had come last is lost, and
    the provider goes on until the garbage collector comes. Here each is closed, or, where a task of
    the chain's is inside it, that task is cancelled.
    """

    __slots__ = ("_generators", "_loop", "_most")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._generators: list[weakref.ref[Generator]] = []
        self._most = 64

    def begun(self, generator: Generator, frame: FrameType) -> None:
        """`generator` is iterated for the first time."""
        if not (_is_theirs(generator.ag_frame) or _is_theirs(frame)):
            return
        if asyncio.get_running_loop() is not self._loop:
            return
        self._generators.append(weakref.ref(generator))
        if len(self._generators) > self._most:
            self._generators = [each for each in self._generators if each() is not None]
            self._most = max(64, 2 * len(self._generators))

    async def close(self) -> None:
        """Close all that are left, from the outermost on."""
        for _ in range(_ROUNDS):
            left = self._left()
            if not left:
                break
            for generator in left:
                if not generator.ag_running:
                    await _close(generator)
            await self._cancel([each for each in left if each.ag_running])

    def _left(self) -> list[Generator]:
        alive = (each() for each in self._generators)
        return [each for each in alive if each is not None and each.ag_frame is not None]

    async def _cancel(self, running: list[Generator]) -> None:
        """Cancel the chain's tasks that are inside of these: their own code names what it iterates."""
        if not running:
            return
        known = {id(generator) for generator in running}
        here = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not here and _holds(task, known)]
        for task in tasks:
            task.cancel("streamguard: the chain was left")
        if tasks:
            await asyncio.wait(tasks, timeout=_LONGEST)


def _holds(task: asyncio.Task[Any], known: set[int]) -> bool:
    """Whether the outermost function of a task holds one of these generators, and is LangChain's own."""
    frame: Any = getattr(task.get_coro(), "cr_frame", None)
    return _is_theirs(frame) and any(id(value) in known for value in frame.f_locals.values())


def _is_theirs(frame: Any) -> bool:
    """Whether a generator is a chain's own, or the loop that runs it; not all SDKs close what they read from.

    What else an application begins, the resources of a tool say, may live on.
    """
    return is_chain(frame) or is_sdk(frame)


async def _close(generator: Generator) -> None:
    try:
        await generator.aclose()
    except (Exception, ChainStopped) as error:  # noqa: BLE001 - its reader has left; the type alone is told
        if not isinstance(error, ChainStopped):
            logger.warning("closing a part of a chain raised %s", type(error).__name__)
