"""Under the middleware's one line, and otherwise unchanged, the patterns stop the engine when their readers leave."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("httpx", reason="the real engine is missing: run `tox -e engine`")
pytest.importorskip("psutil", reason="the real engine is missing: run `tox -e engine`")

from . import measure
from .llama_server import LlamaServer
from .measure import App
from .reports import Report

pytestmark = pytest.mark.engine

PROMPT = 0.3
ASYNC = ("/opened-early", "/disconnect-check", "/behind/base-middleware")
STREAMED = (*ASYNC, "/sync-generator")
NO_COLLECTOR = "--no-gc"


@pytest.mark.parametrize("path", STREAMED)
def test_forty_readers_leave_midstream(
    engine: LlamaServer, serve_one_line: Callable[..., App], path: str
) -> None:
    """Of 40 that leave by close and by reset, p99 burns at most 6 tokens, none runs to the end."""
    report = measure.midstream(engine, serve_one_line(NO_COLLECTOR), path, readers=40)
    assert report.burn(0.99) <= 6, report
    assert report.to_the_end() == 0, report
    assert report.let_go() <= PROMPT, report


@pytest.mark.parametrize("path", STREAMED)
def test_slow_readers_leave(
    engine: LlamaServer, serve_one_line: Callable[..., App], path: str
) -> None:
    """A reader that stalls until the application cannot send, then leaves, burns at most 10."""
    report = measure.stalled(engine, serve_one_line(NO_COLLECTOR), path)
    assert report.burn(0.99) <= 10, report
    assert report.let_go() <= PROMPT, report


@pytest.mark.parametrize("path", [*ASYNC, "/answer"])
def test_readers_leave_while_the_engine_thinks(
    engine: LlamaServer, serve_one_line: Callable[..., App], path: str
) -> None:
    """Left during the prompt, the connection is let go at once and two tokens burn at most."""
    report = measure.thinking(engine, serve_one_line(NO_COLLECTOR), path)
    assert report.let_go() <= PROMPT, report
    assert report.burned <= 2 * len(report.departures), report


@pytest.mark.parametrize("path", [*ASYNC, "/answer"])
def test_readers_leave_the_queue(
    engine: LlamaServer, serve_one_line: Callable[..., App], path: str
) -> None:
    """Left while all slots are taken, the connection is let go at once."""
    report = measure.queueing(engine, serve_one_line(NO_COLLECTOR), path)
    assert report.let_go() <= PROMPT, report
    # The readers that held the slots leave too, and their two or three tokens are in the sum.
    assert report.burned <= 6 * len(report.departures), report


@pytest.mark.parametrize("measured", [measure.midstream, measure.stalled])
def test_a_task_that_nobody_cancels_is_ended_from_below(
    engine: LlamaServer, serve_one_line: Callable[..., App], measured: Callable[..., Report]
) -> None:
    """A producer task outlives its reader; the guarded transport of its client closes the call."""
    report = measured(engine, serve_one_line("--transport", NO_COLLECTOR), "/producer-task")
    assert report.burn(0.99) <= (6 if measured is measure.midstream else 10), report
    assert report.let_go() <= PROMPT, report


@pytest.mark.parametrize("path", ["/producer-task", "/sync-generator"])
@pytest.mark.parametrize("measured", [measure.thinking, measure.queueing])
def test_a_thread_that_blocks_is_woken_from_below(
    engine: LlamaServer,
    serve_one_line: Callable[..., App],
    path: str,
    measured: Callable[..., Report],
) -> None:
    """Before the first token there is nothing to interrupt a thread with but its connection."""
    report = measured(engine, serve_one_line("--transport", NO_COLLECTOR), path)
    assert report.let_go() <= PROMPT, report
    assert report.burned <= 6 * len(report.departures), report
