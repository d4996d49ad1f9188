"""Readers leave in every phase, every framework, under every server; nothing is owed to the collector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamguard_ledger import verify
from streamguard_testing import Leave

from .matrix import Engines, Phase, Rig, engines, owed
from .serving import ASGI, SERVERS, WSGI, Server, answers, serve

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
DJANGO_APPS = ("django-async", "django-async-untouched", "django-sync", "django-sync-untouched")
WSGI_APPS = ("django-sync", "django-sync-untouched")
WAYS = (Leave.CLOSE, Leave.RESET)


@pytest.fixture(scope="module")
def running() -> Iterator[Engines]:
    """The engines, for all servers."""
    with engines() as made:
        yield made


@pytest.fixture(scope="module")
def rig(
    request: pytest.FixtureRequest, running: Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    """One server with one module of applications; when all cases are over, the ledgers verify."""
    name, application = request.param
    folder: Path = tmp_path_factory.mktemp(name)
    with serve(SERVERS[name], application, env={"LEDGER": str(folder)}, grace=1) as process:
        yield Rig(process, name, folder, running)
    for app in folder.iterdir():
        found = verify(app)
        # The servers' own signals may end a process before it can close its ledger.
        assert not found.problems
        assert all(writer.sound for writer in found.writers)


def served(application: str, servers: list[Server]) -> pytest.MarkDecorator:
    """Run a test under each of these servers, with one process for all its cases."""
    return pytest.mark.parametrize(
        "rig",
        [pytest.param((server.name, application), id=server.name) for server in servers],
        indirect=True,
        scope="module",
    )


async def leaves(rig: Rig, app: str, phase: Phase, how: Leave) -> None:
    """Let a reader leave, and see that what is owed was done."""
    expected = owed(rig.name, app, phase, how)
    if expected.unseen:
        pytest.skip(expected.reason)
    await answers(rig.server)
    receipt, after = await rig.run(app, phase, how)
    assert receipt["cause"] in expected.causes, receipt
    assert after <= expected.chunks


@served("matrix_asgi:app", ASGI)
@pytest.mark.parametrize("app", ASGI_APPS)
@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("how", WAYS)
async def test_asgi(rig: Rig, app: str, phase: Phase, how: Leave) -> None:
    """The engine makes at most one chunk for nobody, the receipt says why, and there is exactly one."""
    await leaves(rig, app, phase, how)


@served("matrix_django:app", ASGI)
@pytest.mark.parametrize("app", DJANGO_APPS)
@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("how", WAYS)
async def test_django_under_asgi(rig: Rig, app: str, phase: Phase, how: Leave) -> None:
    """The same for Django's views of both kinds."""
    await leaves(rig, app, phase, how)


@served("matrix_django:wsgi", WSGI)
@pytest.mark.parametrize("app", WSGI_APPS)
@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("how", WAYS)
async def test_django_under_wsgi(rig: Rig, app: str, phase: Phase, how: Leave) -> None:
    """The same where a reader's leaving is seen by writing, or on a socket that the server shows."""
    await leaves(rig, app, phase, how)
