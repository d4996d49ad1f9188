"""A real browser for the example pages, where one is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

BOUND = 20
"""Longest wait for anything that a page shows, in seconds."""

# Chromium calls home otherwise, and a closed network makes it wait.
_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The system's Chromium, headless, driven by Playwright; skips where one of the two is missing."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install --group browser"
    )
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no browser here: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=path, args=list(_FLAGS), chromium_sandbox=False
        )
        yield started
        started.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page of its own, with nothing in its storage; what it complains of stands in `page.complaints`."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(BOUND * 1000)
    opened = context.new_page()
    opened.complaints = []
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on(
        "console",
        lambda said: said.type == "error" and opened.complaints.append(said.text),
    )
    yield opened
    context.close()
