"""The hook that notices generators: it comes before what was there, and leaves what came over it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from streamguard_core import Scope, use_scope
from streamguard_core.generators import unwatch_generators, watch_generators


@pytest.fixture(autouse=True)
def hooks() -> Iterator[None]:
    """The hooks of this thread are afterwards what they were."""
    before = sys.get_asyncgen_hooks()
    yield
    sys.set_asyncgen_hooks(*before)


async def test_it_needs_nothing_before_it() -> None:
    """Where no loop has a hook of its own, a scope that wants to know is told all the same."""
    begun: list[Any] = []

    class Wanting:
        def begun(self, generator: Any, frame: Any) -> None:
            begun.append(generator)

    class Curious(Scope):
        @property
        def generators(self) -> Any:
            return Wanting()

    async def words() -> AsyncIterator[str]:
        yield "a"

    sys.set_asyncgen_hooks(firstiter=None)
    watch_generators()
    generator: Any = words()
    with use_scope(Curious()):
        assert await anext(generator) == "a"
    await generator.aclose()
    assert begun == [generator]


async def test_what_came_over_it_stays() -> None:
    """Somebody else's hook is not taken out."""
    watch_generators()
    other: list[Any] = []
    sys.set_asyncgen_hooks(firstiter=other.append)
    unwatch_generators()
    assert sys.get_asyncgen_hooks().firstiter == other.append
