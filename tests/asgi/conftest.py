"""What all tests of the adapter have in common: no help from the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Whatever a test shows, it shows with the cyclic garbage collector disabled."""
    gc.disable()
    yield
    gc.enable()
