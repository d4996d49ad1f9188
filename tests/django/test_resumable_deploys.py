"""A process that is told to go, with streams that wait for their readers, or are read by a second request."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from streamguard_core import Cause
from streamguard_django import get_guarded_asgi_application

from ..asgi.driver import causes, eos, eventually  # noqa: TID252 - one server for both adapters
from .deploying import told
from .project import BOUND
from .resuming import Rig, WSGIReader, end_of, resuming
from .test_resumable_wsgi import Blocking

pytestmark = pytest.mark.usefixtures("called")


@pytest.mark.parametrize("guarded", [False, True])
async def test_a_stream_that_waits_for_its_reader(guarded: bool) -> None:
    """It is ended at the signal, and does not keep the process for its window; who still comes is told why."""
    rig = Rig()
    with resuming(rig.view, SHUTDOWN_GRACE=0) as made:
        rig.app = get_guarded_asgi_application(made.asgi()) if guarded else made.asgi()
        last = await rig.broken_off()
        told()
        await eventually(lambda: made.receipts)
        again = await rig.get(last).run()
    assert rig.engines[0].closed
    assert causes(made.receipts) == [Cause.SHUTDOWN]
    assert (eos(again)["cause"], "retry" in eos(again)) == ("SHUTDOWN", True)


@pytest.mark.parametrize("guarded", [False, True])
async def test_a_stream_that_a_second_request_reads(guarded: bool) -> None:
    """Its reader is told, with the hint when to ask again; one receipt."""
    rig = Rig()
    with resuming(rig.view, SHUTDOWN_GRACE=0) as made:
        rig.app = get_guarded_asgi_application(made.asgi()) if guarded else made.asgi()
        last = await rig.broken_off()
        async with rig.get(last) as again:
            await eventually(lambda: again.bodies)
            told()
            await again.ended()
        await eventually(lambda: made.receipts)
    assert (eos(again)["cause"], "retry" in eos(again)) == ("SHUTDOWN", True)
    assert causes(made.receipts) == [Cause.SHUTDOWN]


def test_under_wsgi() -> None:
    """The thread of the second request is woken, and its reader told."""
    engine = Blocking(1)
    options: dict[str, Any] = {"SHUTDOWN_GRACE": 0}
    with resuming(engine.view, **options) as made:
        reader = WSGIReader(made.wsgi())
        last = reader.read_tokens(1)
        reader.leave()
        again = WSGIReader(made.wsgi(), last)
        waiting = threading.Thread(target=again.read_to_end)
        waiting.start()
        told()
        waiting.join(BOUND)
        assert not waiting.is_alive()
        engine.finish()  # it is in its read; nothing else can end that here
        made.wait()
    assert end_of(again.text)["cause"] == "SHUTDOWN"
    assert causes(made.receipts) == [Cause.SHUTDOWN]
