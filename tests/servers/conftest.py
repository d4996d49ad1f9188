"""Which tests of servers are quick: those that run before every change lands, with a part of the matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from streamguard_testing import Leave

from .matrix import Phase

HERE: Final = Path(__file__).parent
SERVERS: Final = {"uvicorn-httptools", "hypercorn", "gunicorn-asgi", "gunicorn-gthread"}
DEPLOYED: Final = {"uvicorn-httptools", "gunicorn-gthread"}
PHASES: Final = {Phase.BODY, Phase.FIRST, Phase.MIDDLE, Phase.TAIL}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them; the hook sees the items of all folders."""
    for item in items:
        if item.path.parent == HERE and _is_quick(item):
            item.add_marker("quick")


def _is_quick(item: pytest.Item) -> bool:
    """Whatever is no case of the matrix, and a part of those; of a Django deploy, one server of each kind."""
    case: Any = getattr(item, "callspec", None)
    deployed = None if case is None else case.params.get("deployed")
    if deployed is not None and deployed.framework == "django":
        return deployed.server.name in DEPLOYED
    if case is None or "phase" not in case.params:
        return True
    server, phase, how = case.params["rig"][0], case.params["phase"], case.params["how"]
    return server in SERVERS and phase in PHASES and how is Leave.CLOSE
