"""What a resumable view refuses: readers, responses, policies and settings."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import run_checks
from django.http import HttpResponse, StreamingHttpResponse
from django.test import override_settings

from streamguard_core import StreamSession, UsageError, cancel
from streamguard_django import GuardedStreamingHttpResponse
from streamguard_django.conf import option

from ..adapters.refused import Refused, by_header, refusal  # noqa: TID252 - the same for all adapters
from ..asgi.driver import Server  # noqa: TID252 - one server for both adapters
from ..providers.counting import Slow  # noqa: TID252 - one slow ledger
from .resuming import Rig, resuming


class TestRefused(Refused):
    """A resumable view."""


async def test_what_is_only_expected_is_not_continued() -> None:
    """A stream that nothing is kept of is unknown to who wants the rest of it, also by a point that looks right."""
    rig = Rig()
    with resuming(rig.view, LEDGER=Slow()) as made:
        rig.app = made.asgi()
        async with rig.get() as server:
            await server.until(lambda: bool(server.sent))
            name = server.headers["streamguard-stream-id"]
            answer = await rig.get(f"{name}.{option('RESUME').place}:1").run()
            assert refusal(answer) == (404, "unknown")
            server.leave()
            await server.ended()
        path = f"/streams/{name}/stop"
        assert (await rig.post(path))[0] == 404


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
