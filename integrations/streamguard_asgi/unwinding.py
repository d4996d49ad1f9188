"""Ends an application that goes on answering a reader who has left."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final

MOMENT: Final = 0.05
"""How long a framework that was told of the disconnect has for unwinding by itself, in seconds."""

_THREADS: Final = frozenset(("anyio.to_thread", "asyncio.threads"))
_MODELS: Final = frozenset(
    (
        *("anthropic", "cohere", "google.genai", "groq", "huggingface_hub", "instructor"),
        *("langchain_core", "langgraph", "litellm", "llama_index", "mistralai", "ollama"),
        *("openai", "pydantic_ai", "together", "streamguard_providers"),
    )
)
"""Whoever waits in one of these packages waits for a model."""


class Sends:
    """The calls of a server's `send`, counted by who makes them: an addition before and one after each."""

    __slots__ = ("begun", "others", "passed")

    def __init__(self) -> None:
        self.begun = self.others = 0
        """How many were begun; how many have returned or raised, but for those that brought one chunk."""
        self.passed = 0
        """How many have brought one chunk of a stream."""

    @property
    def ended(self) -> int:
        """How many have returned or raised."""
        return self.passed + self.others

    @property
    def under_way(self) -> bool:
        """True while the server has something to send."""
        return self.begun != self.passed + self.others


class Unwinding:
    """The task that runs the application of one request, and how it is ended.

    A framework that listens ends its response by itself, and runs what belongs behind it. One that
    does not (Starlette under ASGI 2.4, an endpoint that awaits an answer, an application that only
    sends) is cancelled. What it still sends goes nowhere and does not return; that is the place where
    it is ended if it has gone on.

    Each cancellation is counted, and exactly those are taken back.

    Args:
        blocked: whether a thread is inside the application: nobody can end that, and its next send
            comes when it has ended by itself.
    """

    __slots__ = (
        "_before",
        "_blocked",
        "_gently",
        "_host",
        "_issued",
        "_parked",
        "_seen",
        "_timer",
        "begun",
        "sends",
    )

    def __init__(self, blocked: Callable[[], bool]) -> None:
        self._blocked = blocked
        self.sends = Sends()
        self._parked = 0
        self._host: asyncio.Task[Any] | None = None
        self._before = self._issued = 0
        self._seen: weakref.WeakSet[asyncio.Task[Any]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._gently = True
        self.begun = False

    @property
    def host(self) -> asyncio.Task[Any] | None:
        """The task that runs the application; None before and afterwards."""
        return self._host

    def runs_in(self, task: asyncio.Task[Any] | None) -> None:
        """The application is about to run in this task."""
        self._host = task
        self._before = 0 if task is None else task.cancelling()

    def saw(self, task: asyncio.Task[Any] | None) -> None:
        """A task in which a part of the application runs: a middleware made it."""
        if task is not None and task is not self._host:
            if self._seen is None:
                self._seen = weakref.WeakSet()
            self._seen.add(task)

    def awaits_a_model(self) -> bool:
        """True while the application waits in a provider's SDK or a framework of such."""
        return any(
            name in _MODELS or name.partition(".")[0] in _MODELS or _package(name) in _MODELS
            for name in self._waits_in()
        )

    # -- the end -----------------------------------------------------------------------------------

    def begin(self, *, gently: bool) -> None:
        """Nobody is left to answer.

        Args:
            gently: the framework has been told, and has a moment for it.
        """
        if self.begun or self._host is None:
            return
        self.begun, self._gently = True, gently
        if not gently:
            self._interrupt()
        elif self.sends.under_way:
            self._arm()

    async def park(self) -> None:
        """What the application awaits that sends to nobody. Does not return."""
        if self.begun and not self._gently:
            self._interrupt()
        else:
            self._arm()
        self._parked += 1
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._parked -= 1

    def over(self) -> bool:
        """The application has returned or raised: take back what was issued.

        Returns:
            True when nobody else has cancelled the task.
        """
        if self._timer is not None:
            self._timer.cancel()
        host, self._host = self._host, None
        if host is None:
            return False
        for _ in range(self._issued):
            host.uncancel()
        return bool(self._issued) and host.cancelling() <= self._before

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(MOMENT, self._out_of_patience)

    def _out_of_patience(self) -> None:
        self._timer = None
        if self._parked or self.sends.under_way:
            self._gently, self.begun = False, True
            self._interrupt()

    def _interrupt(self) -> None:
        if self._host is None or self._blocked() or _THREADS.intersection(self._waits_in()):
            return
        self._issued += 1
        self._host.cancel()

    def _waits_in(self) -> Iterator[str]:
        """The modules of the coroutines in which the application waits, as far as that can be seen."""
        for task in (self._host, *(self._seen or ())):
            waiting: Any = None if task is None or task.done() else task.get_coro()
            while (frame := getattr(waiting, "cr_frame", None)) is not None:
                yield frame.f_globals.get("__name__", "")
                waiting = waiting.cr_await


def _package(name: str) -> str:
    return ".".join(name.split(".")[:2])
