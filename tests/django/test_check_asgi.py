"""The check of a deploy: is what an ASGI server runs under the wrapper?"""

from __future__ import annotations

from typing import Any

import pytest
from django.core import checks
from django.core.handlers.asgi import ASGIHandler
from django.test import override_settings

from streamguard_django import get_guarded_asgi_application


class Layer:
    """An application around another one, as most of them are."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner


def closed_over(inner: Any) -> Any:
    """The same as a function."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)

    return application


BARE = ASGIHandler()
GUARDED = get_guarded_asgi_application(ASGIHandler())
LAYERED_BARE = Layer({"http": closed_over(BARE), "websocket": print})
LAYERED_GUARDED = closed_over(Layer({"http": GUARDED}))
WITHIN = get_guarded_asgi_application(Layer(ASGIHandler()))  # type: ignore[arg-type]
UNKNOWN = print
CIRCLE = Layer(None)
CIRCLE.inner = CIRCLE


def _found(name: str | None, *, deploy: bool = True) -> list[str]:
    named = None if name is None else f"{__name__}.{name}"
    with override_settings(ASGI_APPLICATION=named):
        messages = checks.run_checks(include_deployment_checks=deploy)
    return [f"{each.msg} {each.hint}" for each in messages if each.id == "streamguard.W003"]


@pytest.mark.parametrize("name", ["BARE", "LAYERED_BARE"])
def test_a_bare_application_is_said(name: str) -> None:
    """W003, whatever layers stand around Django's: it names the setting, and says what to write."""
    (message,) = _found(name)
    assert f"{__name__}.{name}" in message
    assert "get_guarded_asgi_application()" in message


@pytest.mark.parametrize("name", ["GUARDED", "LAYERED_GUARDED", "WITHIN", "UNKNOWN", "CIRCLE"])
def test_a_wrapped_or_unknown_one_is_not(name: str) -> None:
    """The wrapper may stand anywhere; of what cannot be looked into nothing is said."""
    assert _found(name) == []


def test_only_a_deploy_loads_it() -> None:
    """Other commands import no application; one that cannot be imported is its server's to complain of."""
    assert _found("BARE", deploy=False) == []
    assert _found(None) == []
    assert _found("NOWHERE") == []
