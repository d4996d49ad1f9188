"""Fixtures of the tests of `streamguard_providers`."""

from __future__ import annotations

import gc
import importlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from streamguard_testing import LoopbackEngine

from .counting import Client
from .makers import EVERY


@pytest.fixture(params=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> Any:
    """One of the two libraries that the transports serve."""
    return importlib.import_module(request.param)


@pytest.fixture(params=[True, False], ids=["gc", "no gc"])
def collector(request: pytest.FixtureRequest) -> Iterator[bool]:
    """With the cyclic garbage collector, and without it: nothing may depend on it."""
    if not request.param:
        gc.disable()
    try:
        yield request.param
    finally:
        gc.enable()


@pytest.fixture
async def engine() -> AsyncIterator[LoopbackEngine]:
    """A loopback engine at a quick pace."""
    async with LoopbackEngine(tokens_per_second=500) as running:
        yield running


@pytest.fixture(params=list(EVERY), ids=list(EVERY.values()))
def make(request: pytest.FixtureRequest) -> Any:
    """Makes a producer that calls a server."""
    return request.param


@pytest.fixture(params=["pull", "push"])
def contract(request: pytest.FixtureRequest) -> str:
    """The two ways a producer is driven."""
    return str(request.param)


@pytest.fixture(params=["async", "sync"])
async def client(request: pytest.FixtureRequest, library: Any) -> AsyncIterator[Client]:
    """A client whose transport is guarded."""
    made = Client(library, request.param)
    yield made
    await made.close()
