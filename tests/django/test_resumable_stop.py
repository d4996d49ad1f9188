"""The addresses of streams in a Django project: who may stop one and how, and what else is served there."""

from __future__ import annotations

from concurrent.futures import Future

from streamguard_core import Cause

from ..adapters.refused import by_header  # noqa: TID252 - the same for all adapters
from ..adapters.resuming import name_in  # noqa: TID252
from ..adapters.stopped import Stopped  # noqa: TID252
from ..asgi.driver import causes, eos, eventually  # noqa: TID252 - one server for both adapters
from ..providers.counting import Slow  # noqa: TID252 - one slow ledger
from .project import GUARD
from .resuming import Rig, resuming

CSRF = "django.middleware.csrf.CsrfViewMiddleware"


class TestStopped(Stopped):
    """By `streamguard_django.urls`."""


async def test_stopping_what_has_only_its_headers() -> None:
    """The headers say the stream's id before it is open: from then on its reader, and nobody else, may stop it."""
    opening = Future[None]()
    rig = Rig()
    with resuming(rig.view, LEDGER=Slow(opening), RESUME={"owner": by_header}) as made:
        rig.app = made.asgi()
        async with rig.get(x_user="ann") as server:
            await server.until(lambda: bool(server.sent))
            path = f"/streams/{server.headers['streamguard-stream-id']}/stop"
            assert (await rig.post(path, x_user="bob"))[1]["error"] == "not_yours"
            status, said = await rig.post(path, x_user="ann")
            assert (status, said["stopped"]) == (200, True)
            opening.set_result(None)
            await server.ended()
        await eventually(lambda: made.receipts)
    assert eos(server)["cause"] == "USER_CANCEL"
    assert not rig.engines[0].started
    assert causes(made.receipts) == [Cause.USER_CANCEL]


async def test_the_reader_for_pages_is_served() -> None:
    """Beside the stop, as a module."""
    rig = Rig()
    with resuming(rig.view) as made:
        rig.app = made.asgi()
        server = await rig.get(None, "/streams/reader.js").run()
    assert (server.status, server.headers["Content-Type"]) == (200, "text/javascript")
    assert "export function read(" in server.text


async def test_a_stop_is_a_post() -> None:
    """A link, which anybody may make a browser follow, stops nothing."""
    rig = Rig()
    with resuming(rig.view) as made:
        rig.app = made.asgi()
        last = await rig.broken_off()
        assert (await rig.get(None, f"/streams/{name_in(last)}/stop").run()).status == 405
        rig.engines[0].finish()
        assert eos(await rig.get(last).run())["cause"] == "COMPLETED"


async def test_the_project_s_own_protection_from_forgery_holds() -> None:
    """Without the token of the project's CsrfViewMiddleware nothing is stopped; with it, it is."""
    rig = Rig()
    token = "a" * 32
    with resuming(rig.view, [GUARD, CSRF]) as made:
        rig.app = made.asgi()
        last = await rig.broken_off()
        path = f"/streams/{name_in(last)}/stop"
        assert (await rig.post(path, cookie=f"csrftoken={token}"))[0] == 403
        assert made.receipts == []
        status, said = await rig.post(path, cookie=f"csrftoken={token}", x_csrftoken=token)
        assert (status, said["stopped"]) == (200, True)
