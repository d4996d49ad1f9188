"""Ends the async generators that the loops of a request have left behind, as Python itself does not."""

from __future__ import annotations

import asyncio
import dis
import inspect
import logging
import threading
import time
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from streamguard_asgi._starlette import iterate_in_threadpool
from streamguard_core.generators import Generator

logger = logging.getLogger("streamguard")

_LOOPS: Final = dis.opmap["GET_ANEXT"]
"""What `async for` executes when it asks for an item, and nothing else does."""
_THREADED: Final = iterate_in_threadpool.__code__
_TURN: Final = asyncio.Handle._run.__code__  # noqa: SLF001 - the event loop's own frame
"""Whoever runs the event loop iterates nothing: what stands above this frame is not the task's."""
_CORE: Final = "streamguard_core"
_OURS: Final = (_CORE, "streamguard_asgi")
"""Sessions and their adapter close what they iterate, and some of them outlive their request."""
_BETWEEN_LOOKS: Final = 0.005


class _Iteration:
    """Who iterates a generator and, through it, all those inside: the task of the outermost loop.

    Args:
        task: that task; None where it is no loop that iterates, and somebody holds the generator.
    """

    __slots__ = ("task",)

    def __init__(self, task: asyncio.Task[Any] | None) -> None:
        self.task = None if task is None else weakref.ref(task)


_Begun = tuple["weakref.ref[Generator]", _Iteration]


class Generators:
    """The async generators that one request iterates.

    `async for` does not close what it iterates. A loop that is cancelled while its body runs, in a
    `send` to a slow reader say, leaves the generator suspended at its `yield`; only the garbage
    collector would end it, and with it the provider's stream inside. Once the task of such a loop is
    done, nobody can go on with it, and it is closed here.

    Left alone is what no loop iterates (context managers, the resources of a container: whoever
    entered them holds and exits them), what a live task iterates, and what a session drives.

    A sync generator in the thread pool is held from its beginning, because Starlette's generator
    around it forgets it when it is cancelled; it is closed in a thread, when none is inside it.

    Args:
        seconds: how long a thread that is inside a sync generator is waited for.
    """

    __slots__ = (
        "_begun",
        "_blocking",
        "_closed",
        "_closing",
        "_host",
        "_left",
        "_loop",
        "_seconds",
        "_thread",
    )

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        # Made when there is something to hold: this is kept for every stream.
        self._begun: list[_Begun] | None = None
        self._blocking: list[tuple[Any, _Iteration]] | None = None
        self._closing: set[asyncio.Task[None]] | None = None
        self._host: asyncio.Task[Any] | None = None
        self._left = self._closed = False

    # -- what is noticed ---------------------------------------------------------------------------

    def begun(self, generator: Generator, frame: FrameType) -> None:
        """`generator` is iterated for the first time, by what runs in `frame`."""
        if self._closed or threading.get_ident() != self._thread:
            return
        iteration = self._iteration(frame)
        if iteration is None:
            return
        alive = [each for each in self._begun or () if each[0]() is not None]
        self._begun = [*alive, (weakref.ref(generator), iteration)]
        if generator.ag_code is _THREADED:
            self._hold("iterator", generator, iteration)
        if self._left:
            self._follow(iteration)

    def _iteration(self, frame: FrameType) -> _Iteration | None:
        """Who iterates; None where that is one of ours."""
        if _module(frame) in _OURS:
            return None
        loops = _loops(frame)
        running: FrameType | None = frame
        while running is not None and running.f_code is not _TURN:
            if _module(running) == _CORE:
                return None
            if running.f_code.co_flags & inspect.CO_ASYNC_GENERATOR:
                around = self._of(running)
                if around is not None:
                    return around if loops or running is frame else _Iteration(None)
            running = running.f_back
        return _Iteration(asyncio.current_task() if loops else None)

    def _of(self, frame: FrameType) -> _Iteration | None:
        """The iteration of the generator that runs in `frame`."""
        for generator, iteration in self._alive():
            if generator.ag_frame is frame:
                return iteration
        return None

    def _alive(self) -> list[tuple[Generator, _Iteration]]:
        begun = ((each(), iteration) for each, iteration in self._begun or ())
        return [(generator, iteration) for generator, iteration in begun if generator is not None]

    def _hold(self, name: str, generator: Generator, iteration: _Iteration) -> None:
        iterator = generator.ag_frame.f_locals.get(name) if generator.ag_frame else None
        held = any(iterator is each for each, _ in self._blocking or ())
        if not held and isinstance(iterator, Iterator) and hasattr(iterator, "close"):
            self._blocking = [*(self._blocking or ()), (iterator, iteration)]

    # -- the end -----------------------------------------------------------------------------------

    @property
    def blocked(self) -> bool:
        """A thread is inside one of the sync generators: nobody can end that."""
        return any(getattr(iterator, "gi_running", False) for iterator, _ in self._blocking or ())

    def left(self) -> None:
        """The reader has left: close what is abandoned from now on as soon as it is."""
        self._left = True
        for generator, iteration in self._alive():
            if generator.ag_code is _THREADED:
                # What it made of an iterable that is no iterator itself.
                self._hold("as_iterator", generator, iteration)
            self._follow(iteration)

    def _follow(self, iteration: _Iteration) -> None:
        task = None if iteration.task is None else iteration.task()
        if task is None or task.done():
            self._sweep(task)
        else:
            task.remove_done_callback(self._sweep)
            task.add_done_callback(self._sweep)

    def _sweep(self, _: object) -> None:
        if self._closed:
            return
        chains, blocking = self._take_abandoned()
        if chains or blocking:
            task = self._loop.create_task(self._close(chains, blocking))
            if self._closing is None:
                self._closing = set()
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self, host: asyncio.Task[Any] | None) -> None:
        """The request's application has returned: close what its tasks have left behind.

        Args:
            host: the task that it ran in, which goes on.
        """
        self._host = host
        self._sweep(None)
        self._closed = True
        if self._closing:
            await asyncio.wait(self._closing)

    def forget(self) -> None:
        """The request is over, and whatever is iterated from now on is not its own."""
        self._closed = True
        self._begun = self._blocking = None

    async def _close(self, chains: list[list[Generator]], blocking: list[Any]) -> None:
        await asyncio.gather(
            *map(_close_in_order, chains),
            *(_close_blocking(iterator, self._seconds) for iterator in blocking),
        )

    def _take_abandoned(self) -> tuple[list[list[Generator]], list[Any]]:
        """What nobody can iterate any more; each is handed out once."""
        chains: dict[_Iteration, list[Generator]] = {}
        for generator, iteration in self._alive():
            suspended = generator.ag_frame is not None and not generator.ag_running
            if suspended and self._over(iteration):
                chains.setdefault(iteration, []).append(generator)
        taken = {id(generator) for chain in chains.values() for generator in chain}
        self._begun = [each for each in self._begun or () if id(each[0]()) not in taken]
        blocking = [each for each in self._blocking or () if self._over(each[1])]
        self._blocking = [each for each in self._blocking or () if each not in blocking]
        return list(chains.values()), [iterator for iterator, _ in blocking]

    def _over(self, iteration: _Iteration) -> bool:
        """True when the loop's task can iterate no more."""
        if iteration.task is None:
            return False
        task = iteration.task()
        return task is None or task.done() or task is self._host


def _loops(frame: FrameType) -> bool:
    """True for an `async for`, and for the step of an iterator that passes one on."""
    code = frame.f_code
    return code.co_code[frame.f_lasti] == _LOOPS or code.co_name == "__anext__"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


async def _close_in_order(generators: list[Generator]) -> None:
    """From the outermost on: its cleanup may want to end what is inside in its own way."""
    for generator in generators:
        try:
            await generator.aclose()
        except Exception as error:  # noqa: BLE001 - its reader has left; the type alone is told
            logger.warning("closing an abandoned generator raised %s", type(error).__name__)


async def _close_blocking(iterator: Any, seconds: float) -> None:
    try:
        # Not Starlette's pool: its threads may all be inside such generators.
        await asyncio.to_thread(_close_when_free, iterator, time.monotonic() + seconds)
    except Exception as error:  # noqa: BLE001 - see above
        logger.warning("closing an abandoned generator raised %s", type(error).__name__)


def _close_when_free(iterator: Any, until: float) -> None:
    """Nothing tells when a thread leaves a generator: this one looks, for as long as it is worth it."""
    while getattr(iterator, "gi_running", False) and time.monotonic() < until:
        time.sleep(_BETWEEN_LOOKS)
    iterator.close()
