"""What holds for all tests of LangChain."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from .rig import Receipts

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
