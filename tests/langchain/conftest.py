"""What holds for all tests of LangChain."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from .receipts import Receipts

pytest.importorskip("langchain_core")


@pytest.fixture
def receipts() -> Receipts:
    """Where the receipts of a test come."""
    return Receipts()


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """Nothing is left to the garbage collector (P11)."""
    gc.disable()
    yield
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """LangChain's models share clients that are never closed: their idle connections end with the process."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            for filtered in _IDLE_CONNECTIONS:
                item.add_marker(pytest.mark.filterwarnings(filtered))


_IDLE_CONNECTIONS = (
    "ignore:unclosed:ResourceWarning",
    "ignore:Exception ignored in. <(function _SelectorTransport|socket):pytest.PytestUnraisableExceptionWarning",
)
