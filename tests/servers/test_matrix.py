"""Readers leave in every phase, every framework, under every server; nothing is owed to the collector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamguard_ledger import verify
from streamguard_testing import Leave

from .matrix import Engines, Phase, Rig, engines, owed
from .serving import ASGI, SERVERS, answers, serve

pytestmark = pytest.mark.servers

ASGI_APPS = (
    "raw",
    "starlette",
    "fastapi",
    "basehttp",
    "fastapi-sse",
    "fastapi-streaming",
    "fastapi-threaded",
    "sse-starlette",
)
WAYS = (Leave.CLOSE, Leave.RESET)
QUICK_SERVERS = ("uvicorn-h11", "gunicorn-asgi")
QUICK_PHASES = (Phase.FIRST, Phase.MIDDLE, Phase.TAIL)


@pytest.fixture(scope="module")
def running() -> Iterator[Engines]:
    """The engines, for all servers."""
    with engines() as made:
        yield made


@pytest.fixture(scope="module")
def rig(
    request: pytest.FixtureRequest, running: Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    """One server; when all its cases are over, its ledgers verify."""
    server = SERVERS[request.param]
    folder: Path = tmp_path_factory.mktemp(server.name)
    with serve(server, "matrix_asgi:app", env={"LEDGER": str(folder)}, grace=1) as process:
        yield Rig(process, server.name, folder, running)
    for app in folder.iterdir():
        found = verify(app)
        # The servers' own signals may end a process before it can close its ledger.
        assert not found.problems
        assert all(writer.sound for writer in found.writers)


@pytest.mark.parametrize("rig", [server.name for server in ASGI], indirect=True, scope="module")
@pytest.mark.parametrize("app", ASGI_APPS)
@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("how", WAYS)
async def test_the_reader_leaves(rig: Rig, app: str, phase: Phase, how: Leave) -> None:
    """The engine makes at most one chunk for nobody, the receipt says why, and there is exactly one."""
    await answers(rig.server)
    expected = owed(rig.name, app, phase, how)
    receipt, after = await rig.run(app, phase, how)
    assert receipt["cause"] in expected.causes, receipt
    assert after <= expected.chunks
