"""Who may not resume or stop a stream, and what each is told; the stop endpoint; what the settings may say."""

from __future__ import annotations

import json
from concurrent.futures import Future
from typing import Any

import pytest
from django.core.checks import run_checks
from django.http import HttpResponse, StreamingHttpResponse
from django.test import override_settings

from streamguard_core import Cause, StreamSession, UsageError, cancel
from streamguard_django import GuardedStreamingHttpResponse, resumable
from streamguard_django.conf import option

from ..asgi.driver import Server, causes, eos, eventually  # noqa: TID252 - one server for both adapters
from ..providers.counting import Slow  # noqa: TID252 - one slow ledger
from .project import GUARD
from .resuming import Rig, ids, resuming, tokens

CSRF = "django.middleware.csrf.CsrfViewMiddleware"


def by_header(request: Any) -> str:
    """An `owner`."""
    user: str = request.headers["X-User"]
    return user


async def async_by_header(request: Any) -> str:
    """The same, async."""
    return by_header(request)


async def test_stopping() -> None:
    """The stop button ends the stream at once, as its reader's wish; a stale wish changes nothing."""
    rig = Rig()
    with resuming(rig.view) as made:
        rig.app = made.asgi()
        async with rig.get() as server:
            await server.events_sent(3)
            path = f"/streams/{server.headers['streamguard-stream-id']}/stop"
            status, said = await rig.post(path)
            assert (status, said["stopped"], said["cause"]) == (200, True, "USER_CANCEL")
            await server.ended()
        assert eos(server)["cause"] == "USER_CANCEL"
        assert "error" not in eos(server)
        status, said = await rig.post(path)
        assert (status, said["stopped"], said["cause"]) == (200, False, "USER_CANCEL")
        await eventually(lambda: made.receipts)
    assert rig.engines[0].closed
    assert causes(made.receipts) == [Cause.USER_CANCEL]


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


async def test_what_is_only_expected_is_not_continued() -> None:
    """A stream that nothing is kept of is unknown to who wants the rest of it, also by a point that looks right."""
    rig = Rig()
    with resuming(rig.view, LEDGER=Slow()) as made:
        rig.app = made.asgi()
        async with rig.get() as server:
            await server.until(lambda: bool(server.sent))
            name = server.headers["streamguard-stream-id"]
            answer = await rig.get(f"{name}.{option('RESUME').place}:1").run()
            assert (answer.status, json.loads(answer.text)["error"]) == (404, "unknown")
            server.leave()
            await server.ended()
        path = f"/streams/{name}/stop"
        assert (await rig.post(path))[0] == 404


async def test_a_stale_stop() -> None:
    """Of a stream that has ended: ignored. Of one that is unknown, or another process's: refused."""
    rig = Rig()
    with resuming(rig.view) as made:
        rig.app = made.asgi()
        last = await rig.broken_off()
        rig.engines[0].finish()
        await eventually(lambda: made.receipts)
        name = last.rpartition(":")[0]
        status, said = await rig.post(f"/streams/{name}/stop")
        assert (status, said["stopped"], said["cause"]) == (200, False, "COMPLETED")
        status, said = await rig.post("/streams/older/stop")
        assert (status, said["error"]) == (404, "unknown")
        assert (await rig.post(f"/streams/{name.rpartition('.')[0]}.0/stop"))[0] == 421
    assert causes(made.receipts) == [Cause.COMPLETED]


async def test_stopping_while_the_reader_is_away() -> None:
    """The wish comes over a connection of its own: nobody needs to read the stream."""
    rig = Rig()
    with resuming(rig.view) as made:
        rig.app = made.asgi()
        last = await rig.broken_off()
        assert (await rig.post(f"/streams/{last.rpartition(':')[0]}/stop"))[1]["stopped"]
        await eventually(lambda: made.receipts)
        assert rig.engines[0].closed
        assert eos(await rig.get(last).run())["cause"] == "USER_CANCEL"


async def test_the_reader_for_pages_is_served() -> None:
    """Beside the stop, as a module."""
    rig = Rig()
    with resuming(rig.view) as made:
        rig.app = made.asgi()
        server = await rig.get(None, "/streams/reader.js").run()
    assert (server.status, server.headers["Content-Type"]) == (200, "text/javascript")
    assert "export function read(" in server.text


async def test_how_it_ended() -> None:
    """Whoever may resume a stream may ask: that it goes on, then how it ended; nobody else is told anything."""
    rig = Rig()
    with resuming(rig.view, RESUME={"owner": by_header}) as made:
        rig.app = made.asgi()
        last = await rig.broken_off(x_user="ann")
        path = f"/streams/{last.rpartition(':')[0]}/receipt"
        said = json.loads((await rig.get(None, path, x_user="ann").run()).text)
        assert (said["live"], said["committed"], said["end"]) == (True, 3, None)
        rig.engines[0].finish()
        await eventually(lambda: made.receipts)
        said = json.loads((await rig.get(None, path, x_user="ann").run()).text)
        assert (said["live"], said["end"]["cause"]) == (False, "COMPLETED")
        assert set(said) == {"stream_id", "live", "committed", "consumed", "end"}
        assert (await rig.get(None, path, x_user="bob").run()).status == 403
        assert (await rig.get(None, "/streams/older/receipt", x_user="ann").run()).status == 404


async def test_a_stop_is_a_post() -> None:
    """A link, which anybody may make a browser follow, stops nothing."""
    rig = Rig()
    with resuming(rig.view) as made:
        rig.app = made.asgi()
        last = await rig.broken_off()
        assert (await rig.get(None, f"/streams/{last.rpartition(':')[0]}/stop").run()).status == 405
        rig.engines[0].finish()
        assert eos(await rig.get(last).run())["cause"] == "COMPLETED"


async def test_the_project_s_own_protection_from_forgery_holds() -> None:
    """Without the token of the project's CsrfViewMiddleware nothing is stopped; with it, it is."""
    rig = Rig()
    token = "a" * 32
    with resuming(rig.view, [GUARD, CSRF]) as made:
        rig.app = made.asgi()
        last = await rig.broken_off()
        path = f"/streams/{last.rpartition(':')[0]}/stop"
        assert (await rig.post(path, cookie=f"csrftoken={token}"))[0] == 403
        assert made.receipts == []
        status, said = await rig.post(path, cookie=f"csrftoken={token}", x_csrftoken=token)
        assert (status, said["stopped"]) == (200, True)


@pytest.mark.parametrize(
    ("last_id", "status", "error"),
    [
        ("7", 400, "malformed"),
        ("another.{place}:1", 404, "unknown"),
        ("{stream}.0000:1", 421, "elsewhere"),
        ("{stream}.{place}:4", 409, "beyond"),
    ],
)
@pytest.mark.parametrize("view", ["view", "sync_view"])
async def test_a_bad_id_is_refused(view: str, last_id: str, status: int, error: str) -> None:
    """Each with its own answer and nothing of any stream; the view does not run, and the stream goes on waiting."""
    rig = Rig()
    with resuming(getattr(rig, view)) as made:
        rig.app = made.asgi()
        last = await rig.broken_off()
        stream, _, place = last.rpartition(":")[0].rpartition(".")
        refused = await rig.get(last_id.format(stream=stream, place=place)).run()
        assert (refused.status, json.loads(refused.text)["error"]) == (status, error)
        assert refused.headers["Cache-Control"] == "no-store"
        assert (tokens(refused.text), len(rig.engines)) == ([], 1)
        rig.engines[0].finish()
        assert eos(await rig.get(last).run())["cause"] == "COMPLETED"


async def test_what_fell_out_of_the_buffer() -> None:
    """A reader that missed more than is kept is told so; one that did not goes on."""
    rig = Rig()
    with resuming(rig.view, RESUME={"max_chunks": 2}) as made:
        rig.app = made.asgi()
        last = await rig.broken_off()
        name = last.rpartition(":")[0]
        refused = await rig.get(f"{name}:0").run()
        assert (refused.status, json.loads(refused.text)["error"]) == (410, "dropped")
        rig.engines[0].finish()
        assert tokens((await rig.get(f"{name}:1").run()).text) == ["token2 ", "token3 "]


async def test_a_refused_reader_ends_nobody() -> None:
    """A wrong offset does not take the stream from who reads it."""
    rig = Rig()
    with resuming(rig.view) as made:
        rig.app = made.asgi()
        async with rig.get() as server:
            await server.events_sent(3)
            refused = await rig.get(ids(server.text)[-1].replace(":3", ":9")).run()
            assert refused.status == 409
            rig.engines[0].make(1)
            rig.engines[0].finish()
            await server.ended()
    assert len(tokens(server.text)) == 4


@pytest.mark.parametrize("owner", [by_header, async_by_header])
@pytest.mark.parametrize("view", ["view", "sync_view"])
async def test_only_the_owner_may(owner: Any, view: str) -> None:
    """Another user with the right id gets neither the text nor the stop button."""
    rig = Rig()
    with resuming(getattr(rig, view), RESUME={"owner": owner}) as made:
        rig.app = made.asgi()
        last = await rig.broken_off(x_user="ann")
        refused = await rig.get(last, x_user="bob").run()
        assert (refused.status, json.loads(refused.text)["error"]) == (403, "not_yours")
        path = f"/streams/{last.rpartition(':')[0]}/stop"
        assert (await rig.post(path, x_user="bob"))[0] == 403
        assert made.receipts == []
        rig.engines[0].finish()
        assert eos(await rig.get(last, x_user="ann").run())["cause"] == "COMPLETED"


async def test_a_stream_belongs_to_its_address() -> None:
    """An address with weaker rules does not give out what another has opened."""
    rig = Rig()
    with resuming(rig.view) as made:
        rig.app = made.asgi()
        last = await rig.broken_off()
        refused = await rig.get(last, "/other").run()
        assert (refused.status, json.loads(refused.text)["error"]) == (403, "not_yours")
        rig.engines[0].finish()
        await eventually(lambda: made.receipts)


@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile:ResourceWarning")
async def test_a_streaming_response_of_another_kind_is_refused() -> None:
    """Its bytes cannot be numbered; a plain answer is what it is."""

    class Framed:
        closed = False

        def __iter__(self) -> Any:
            return iter([b"data: a\n\n"])

        def close(self) -> None:
            self.closed = True

    framed = Framed()

    async def view(request: Any) -> Any:
        if request.path == "/other":
            return HttpResponse("busy", status=503)
        return StreamingHttpResponse(framed)

    with resuming(view) as made:
        plain = await Server(made.asgi(), "/other").run()
        assert (plain.status, plain.text) == (503, "busy")
        with (
            override_settings(DEBUG_PROPAGATE_EXCEPTIONS=True),
            pytest.raises(
                UsageError, match="StreamingHttpResponse, whose bytes cannot be numbered"
            ),
        ):
            await Server(made.asgi()).run()
    assert framed.closed


async def test_a_policy_that_does_not_wait() -> None:
    """In a resumable view it is a contradiction, which is said where it is written; so is an id that fits nowhere."""
    said: list[str] = []

    async def view(request: Any) -> Any:
        with pytest.raises(UsageError) as error:
            GuardedStreamingHttpResponse(iter("ab"), on_disconnect=cancel)
        said.append(str(error.value))
        with pytest.raises(UsageError) as error:
            GuardedStreamingHttpResponse(StreamSession(iter("ab"), stream_id="na\xefve"))
        said.append(str(error.value))
        return HttpResponse()

    with resuming(view) as made:
        await Server(made.asgi()).run()
    assert "does not wait" in said[0]
    assert "printable ASCII" in said[1]


async def test_without_the_middleware() -> None:
    """The response knows its request, and the stream outlives that all the same."""
    rig = Rig()
    with resuming(rig.view, []) as made:
        rig.app = made.asgi()
        last = await rig.broken_off()
        rig.engines[0].make(1)
        rig.engines[0].finish()
        assert tokens((await rig.get(last).run()).text) == ["token4 "]
        await eventually(lambda: made.receipts)


async def test_head_keeps_nothing() -> None:
    """A HEAD request opens no stream that could be resumed."""
    rig = Rig()
    with resuming(rig.view) as made:
        server = await Server(made.asgi(), method="HEAD").run()
        name = server.headers["streamguard-stream-id"]
        rig.app = made.asgi()
        assert (await rig.post(f"/streams/{name}/stop"))[0] == 404


def test_a_decorated_view_keeps_its_marks() -> None:
    """What other decorators have said of it still holds."""

    def view(request: Any) -> Any:
        """Nothing."""

    view.csrf_exempt = True  # type: ignore[attr-defined]
    assert resumable(view).csrf_exempt  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("resume", "id", "text"),
    [
        (30, "E003", "no dictionary"),
        ({"windows": 30}, "E003", "no option 'windows'"),
        ({"window": -1}, "E003", "seconds=-1"),
        ({"max_bytes": 0}, "E003", "max_bytes=0"),
        ({"retry": -1}, "E003", "retry=-1"),
        ({"owner": 7}, "E003", "int cannot be called"),
        ({"owner": "no.such.path"}, "E004", "cannot be imported"),
        ({"window": 30}, "W002", "no owner"),
    ],
)
def test_the_checks_say_what_is_wrong(resume: Any, id: str, text: str) -> None:  # noqa: A002
    """`manage.py check` names the key, what is wrong with it and what to write."""
    with override_settings(STREAMGUARD={"RESUME": resume}):
        found = [each for each in run_checks() if each.id == f"streamguard.{id}"]
    assert [text in each.msg and "RESUME" in each.msg for each in found] == [True]
    assert found[0].hint


@pytest.mark.parametrize(
    "settings", [{}, {"RESUME": {"owner": None}}, {"RESUME": {"owner": by_header}}]
)
def test_the_checks_are_content(settings: dict[str, Any]) -> None:
    """Without the setting, or with an owner, or when somebody has said that there is none."""
    with override_settings(STREAMGUARD=settings):
        assert [each for each in run_checks() if "RESUME" in each.msg] == []
