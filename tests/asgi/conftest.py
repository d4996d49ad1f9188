"""What tests of the adapter have in common: no help from the garbage collector, and the rig that is resumed."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from streamguard_asgi import Resume

from ..adapters.resuming import OpenRig  # noqa: TID252 - one rig for all adapters
from .resuming import Rig


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Whatever a test shows, it shows with the cyclic garbage collector disabled."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def open_rig() -> OpenRig:
    """A resumable endpoint."""
    return lambda **bounds: nullcontext(Rig(Resume(**bounds)))
