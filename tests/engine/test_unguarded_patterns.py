"""The measurement sees what plain practice burns: it would see a guard that does not work."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("httpx", reason="the real engine is missing: run `tox -e engine`")
pytest.importorskip("psutil", reason="the real engine is missing: run `tox -e engine`")

from . import measure
from .llama_server import LlamaServer
from .measure import App

pytestmark = pytest.mark.engine

# With the cyclic collector on, it is chance when, and whether, it stops a dropped generator;
# a threaded one that it closes inside the HTTP client's own lock can even hang the server.
NO_COLLECTOR = "--no-gc"
FEW = 4
SHORT = 150


@pytest.mark.parametrize("path", ["/sync-generator", "/producer-task"])
def test_generated_to_the_end_after_the_reader_left(
    engine: LlamaServer, serve: Callable[..., App], path: str
) -> None:
    """A sync generator and an uncancelled task burn every token that was left."""
    report = measure.midstream(
        engine, serve(NO_COLLECTOR), path, readers=FEW, max_tokens=SHORT, last=20
    )
    assert report.to_the_end() == FEW, report
    assert report.let_go() > 0.3, report


def test_dropped_in_the_middle_of_a_send(engine: LlamaServer, serve: Callable[..., App]) -> None:
    """Behind BaseHTTPMiddleware a generator whose reader stalled before leaving runs on."""
    report = measure.stalled(
        engine, serve(NO_COLLECTOR), "/behind/base-middleware", readers=FEW, max_tokens=200
    )
    assert report.to_the_end() == FEW, report


def test_a_stream_opened_early_keeps_its_place_in_the_queue(
    engine: LlamaServer, serve: Callable[..., App]
) -> None:
    """Who opens the stream before the response does not let go before the engine answers."""
    report = measure.queueing(engine, serve(), "/opened-early", readers=FEW, patience=1.0)
    assert report.let_go() > 1.0, report


def test_a_sync_generator_is_held_while_the_engine_thinks(
    engine: LlamaServer, serve: Callable[..., App]
) -> None:
    """A sync generator left during the prompt is generated for to its last token."""
    report = measure.thinking(
        engine, serve(NO_COLLECTOR), "/sync-generator", readers=FEW, max_tokens=20, words=300
    )
    assert report.burned == FEW * 20, report
    assert report.let_go() > 0.3, report


@pytest.mark.parametrize("path", ["/opened-early", "/behind/base-middleware"])
def test_what_plain_practice_does_well(
    engine: LlamaServer, serve: Callable[..., App], path: str
) -> None:
    """Async generators stop the engine within a few tokens when a prompt reader leaves."""
    report = measure.midstream(engine, serve(), path, readers=FEW, max_tokens=SHORT)
    assert report.burn(0.5) <= 6, report
