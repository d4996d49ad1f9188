"""The ASGI wrapper: endings that nothing inside Django sees."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import StreamingHttpResponse

from streamguard_core import Cause
from streamguard_django import get_guarded_asgi_application

from ..asgi.driver import (  # noqa: TID252 - one server for both adapters
    Engine,
    Server,
    causes,
    eventually,
)
from .project import project


def _view(engine: Engine) -> Any:
    async def view(request: Any) -> Any:
        return StreamingHttpResponse(engine.stream())

    return view


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("", Cause.OPERATOR_CANCEL),
        ("Cancelled by cancel scope 7f at /srv/shutdown/views.py", Cause.OPERATOR_CANCEL),
        ("Task cancelled, timeout graceful shutdown exceeded", Cause.SHUTDOWN),
    ],
)
# Django 5.2 leaves the task behind that listens, and its copy of the request's body.
@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_request_that_its_server_cancels_is_ended(message: str, cause: Cause) -> None:
    """P16: Django 5.2 would run the response on as an orphan; whose doing it was is said (G14)."""
    engine = Engine(2)
    with project(_view(engine)) as made:
        async with Server(get_guarded_asgi_application(made.asgi())) as server:
            await server.until(lambda: b"token2 " in server.bodies)
            assert server.task is not None
            server.task.cancel(message)
        await eventually(lambda: made.receipts)
    await eventually(lambda: engine.closed)
    assert engine.generated == 2
    assert causes(made.receipts) == [cause]


async def test_a_reader_who_leaves_is_seen_before_django_cancels() -> None:
    """The scope is told by the connection itself, and there is one receipt."""
    engine = Engine(2)
    with project(_view(engine)) as made:
        async with Server(get_guarded_asgi_application(made.asgi())) as server:
            await server.until(lambda: b"token2 " in server.bodies)
            server.leave()
            await server.ended()
        await eventually(lambda: made.receipts)
    assert engine.closed
    assert causes(made.receipts) == [Cause.CLIENT_DISCONNECT]
    assert made.receipts[0].history[0].detail == "the connection was closed"


async def test_a_whole_stream_and_a_plain_answer_are_unchanged() -> None:
    """What happens to the connection after the response is no disconnect (P6)."""
    engine = Engine(2)
    engine.finish()
    with project(_view(engine)) as made:
        server = await Server(get_guarded_asgi_application(made.asgi())).run()
        assert server.text == "token1 token2 "
        await eventually(lambda: made.receipts)
        assert causes(made.receipts) == [Cause.COMPLETED]


async def test_other_scopes_pass_through() -> None:
    """P51: a lifespan is Django's to refuse, not ours."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    scope = {"type": "lifespan"}
    await get_guarded_asgi_application(app)(scope, None, None)  # type: ignore[arg-type]
    assert seen == [scope]
