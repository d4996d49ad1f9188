"""What the tests of a deploy share: how a process is told to go, and what it streams then."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

from streamguard_django import GuardedStreamingHttpResponse


def told() -> None:
    """The process is told to go."""
    signal.raise_signal(signal.SIGTERM)


def view_of(producer: Any, **options: Any) -> Any:
    """An async view that streams what a producer makes."""

    async def view(request: Any) -> Any:
        return GuardedStreamingHttpResponse(producer(), **options)

    return view


def sync_view_of(producer: Any, **options: Any) -> Any:
    """The same, as a sync view."""

    def view(request: Any) -> Any:
        return GuardedStreamingHttpResponse(producer(), **options)

    return view


def words() -> Iterator[str]:
    """For ever."""
    while True:
        yield "word "
