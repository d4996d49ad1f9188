"""Notices when an async generator is first iterated, and tells the scope in which it is begun."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import AsyncGeneratorType, FrameType
from typing import Any, Protocol, cast

from streamguard_core.scope import current_scope

Generator = AsyncGeneratorType[Any, Any]


class NoticesGenerators(Protocol):
    """What a scope's `generators` are, where an adapter closes what loops leave behind."""

    def begun(self, generator: Generator, frame: FrameType) -> None:
        """`generator` is iterated for the first time, by what runs in `frame`."""


def watch_generators() -> None:
    """Have this thread's async generators noticed when they are first iterated. Once per running loop.

    The event loop's own hook is called as before, and puts back what was there when it stops.
    """
    first = sys.get_asyncgen_hooks().firstiter
    if type(first) is not _FirstIteration:
        sys.set_asyncgen_hooks(firstiter=cast(Any, _FirstIteration(cast(Any, first))))


def unwatch_generators() -> None:
    """Take the hook out again, if nobody has put another one over it."""
    first = sys.get_asyncgen_hooks().firstiter
    if isinstance(first, _FirstIteration):
        sys.set_asyncgen_hooks(firstiter=cast(Any, first.previous))


class _FirstIteration:
    """The hook: tells the scope in which a generator is begun, if that wants to know."""

    __slots__ = ("previous",)

    def __init__(self, previous: Callable[[Generator], object] | None) -> None:
        self.previous = previous

    def __call__(self, generator: Generator) -> None:
        if self.previous is not None:
            self.previous(generator)
        scope = current_scope()
        generators = None if scope is None else scope.generators
        if generators is not None:
            generators.begun(generator, sys._getframe(1))
