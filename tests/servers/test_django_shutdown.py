"""What only gunicorn does with a Django project's processes: it replaces them, and forks them from a loaded one."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest

from .deploying import DJANGO, GRACE, Deployed, gone, readers, receipts, rest, told_why
from .serving import answers, until

GUNICORN = [
    each
    for each in DJANGO
    if each.server.interface == "wsgi" and each.server.name.startswith("gunicorn")
]
pytestmark = [pytest.mark.servers, pytest.mark.parametrize("deployed", GUNICORN, ids=str)]


async def test_a_worker_that_has_served_enough_keeps_its_receipts(
    deployed: Deployed, tmp_path: Path
) -> None:
    """`--max-requests` ends a process that nobody told to go, right behind a response: its receipt is kept."""
    with deployed.serve(tmp_path, "--max-requests", "1") as running:
        async with readers(running, 1, deployed.path("short")) as clients:
            (end,) = await rest(clients)
        assert b'"cause":"COMPLETED"' in end
        await until(lambda: receipts(tmp_path)[0]["sealed"], "the receipt")


async def test_workers_that_are_forked_from_a_loaded_project(
    deployed: Deployed, tmp_path: Path
) -> None:
    """`--preload`: the handler is the worker's own, by its hook; sync workers need none; the ledger is a worker's."""
    gthread = deployed.server.name == "gunicorn-gthread"
    hook = ("--config", "python:preloaded") if gthread else ("--preload",)
    expected = await deployed.unguarded("--preload")
    with deployed.serve(tmp_path, *hook, grace=GRACE) as running:
        await answers(running)
        async with readers(running, 3, deployed.path("stream")) as clients:
            running.send_signal(signal.SIGTERM)
            ends = await rest(clients)
            assert await gone(running) == expected
    assert all(map(told_why, ends))
    causes = Counter((one["cause"], one["sealed"]) for one in receipts(tmp_path))
    assert causes == {("SHUTDOWN", True): 3}
