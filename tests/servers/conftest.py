"""Which tests of servers are quick: those that run before every change lands, with a part of the matrix."""

from __future__ import annotations

from typing import Final

import pytest

from streamguard_testing import Leave

from .matrix import Phase

SERVERS: Final = {"uvicorn-httptools", "hypercorn", "gunicorn-asgi", "gunicorn-gthread"}
PHASES: Final = {Phase.BODY, Phase.FIRST, Phase.MIDDLE, Phase.TAIL}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them."""
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if "phase" not in params or (
            params["rig"][0] in SERVERS
            and params["phase"] in PHASES
            and params["how"] is Leave.CLOSE
        ):
            item.add_marker("quick")
