"""Guarded by one line each, the four patterns stop the engine when their readers leave."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("httpx", reason="the real engine is missing: run `tox -e engine`")
pytest.importorskip("psutil", reason="the real engine is missing: run `tox -e engine`")

from . import measure
from .llama_server import LlamaServer
from .measure import App

pytestmark = pytest.mark.engine

PATTERNS = ("/sync-generator", "/producer-task", "/opened-early", "/behind/base-middleware")
COLLECTOR = pytest.mark.parametrize("flags", [(), ("--no-gc",)], ids=["gc", "no-gc"])
PROMPT = 0.3


@COLLECTOR
@pytest.mark.parametrize("path", PATTERNS)
def test_forty_readers_leave_midstream(
    engine: LlamaServer, serve: Callable[..., App], path: str, flags: tuple[str, ...]
) -> None:
    """Of 40 that leave by close and by reset, p99 burns at most 6 tokens, none runs to the end."""
    report = measure.midstream(engine, serve("--guarded", *flags), path, readers=40)
    assert report.burn(0.99) <= 6, report
    assert report.to_the_end() == 0, report
    assert report.let_go() <= PROMPT, report


@COLLECTOR
@pytest.mark.parametrize("path", PATTERNS)
def test_slow_readers_leave(
    engine: LlamaServer, serve: Callable[..., App], path: str, flags: tuple[str, ...]
) -> None:
    """A reader that stalls until the application cannot send, then leaves, burns at most 10."""
    report = measure.stalled(engine, serve("--guarded", *flags), path)
    assert report.burn(0.99) <= 10, report
    assert report.let_go() <= PROMPT, report


@pytest.mark.parametrize("path", PATTERNS)
def test_readers_leave_while_the_engine_thinks(
    engine: LlamaServer, serve: Callable[..., App], path: str
) -> None:
    """Left during the prompt, the connection is let go at once and two tokens burn at most."""
    report = measure.thinking(engine, serve("--guarded", "--no-gc"), path)
    assert report.let_go() <= PROMPT, report
    assert report.burned <= 2 * len(report.departures), report


@pytest.mark.parametrize("path", PATTERNS)
def test_readers_leave_the_queue(engine: LlamaServer, serve: Callable[..., App], path: str) -> None:
    """Left while all slots are taken, the connection is let go at once."""
    report = measure.queueing(engine, serve("--guarded", "--no-gc"), path)
    assert report.let_go() <= PROMPT, report
    # The readers that held the slots leave too, and their two or three tokens are in the sum.
    assert report.burned <= 6 * len(report.departures), report
