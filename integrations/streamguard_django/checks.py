"""System checks that say what is wrong with a project's settings, and what to write."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004
from django.core.handlers.asgi import ASGIHandler
from django.utils.module_loading import import_string

from streamguard_django.asgi import GuardedApplication
from streamguard_django.conf import NAME, option

LABEL: Final = "streamguard"
MIDDLEWARE: Final = "streamguard_django.StreamGuardMiddleware"
_ALIASES: Final = (MIDDLEWARE, "streamguard_django.middleware.StreamGuardMiddleware")
_GZIP: Final = "django.middleware.gzip.GZipMiddleware"
_LOOKED_AT: Final = 200
"""How many objects around an application are looked at, at most: layers hold what they wrap."""


def check_settings(**_: Any) -> list[CheckMessage]:
    """E001 to E004: the dictionary `STREAMGUARD`."""
    return [
        Error(problem.text, hint=problem.hint, id=f"{LABEL}.{problem.id}")
        for problem in option.problems()
    ]


def check_resume(**_: Any) -> list[CheckMessage]:
    """W002: streams may be resumed by whoever knows their ids, and nobody has said that this is meant."""
    given = getattr(settings, NAME, {})
    resume = given.get("RESUME") if isinstance(given, Mapping) else None
    if not isinstance(resume, Mapping) or "owner" in resume:
        return []
    return [
        Warning(
            f"{NAME}['RESUME'] has no owner: whoever knows a stream's id may read on and stop it.",
            hint='Write "owner": "project.readers.owner_of", a function of the request that returns a text;'
            " or None, if that is what you want.",
            id=f"{LABEL}.W002",
        )
    ]


def check_asgi(**_: Any) -> list[CheckMessage]:
    """W003, of `check --deploy`: what a server runs is Django's ASGI application itself, without the wrapper.

    Only where the setting `ASGI_APPLICATION` names it. The module is imported, as the server does.
    """
    named = getattr(settings, "ASGI_APPLICATION", None)
    try:
        application = import_string(named) if named else None
    except Exception:  # noqa: BLE001 - a project that cannot be loaded hears of it from its server
        return []
    if not _is_bare(application):
        return []
    return [
        Warning(
            f"ASGI_APPLICATION = {named!r} is Django's application without our wrapper: a request that the server"
            " cancels, as some do at a deploy, ends without a word to its reader, and a reader who stops reading is"
            " never given up.",
            hint="Write `application = streamguard_django.get_guarded_asgi_application()` in place of"
            " `get_asgi_application()`.",
            id=f"{LABEL}.W003",
        )
    ]


def _is_bare(application: Any) -> bool:
    """Whether Django's application is reached without passing the wrapper; False where that cannot be seen."""
    waiting, seen = [application], set[int]()
    bare = False
    while waiting and len(seen) < _LOOKED_AT:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, GuardedApplication):
            return False
        if isinstance(each, ASGIHandler):
            bare = True
        elif isinstance(each, Mapping):
            waiting.extend(each.values())
        else:
            waiting.extend(
                inspect.getclosurevars(each).nonlocals.values() if inspect.isfunction(each) else ()
            )
            waiting.extend(getattr(each, "__dict__", {}).values())
    return bare


def check_middleware(**_: Any) -> list[CheckMessage]:
    """W001: the middleware is missing, or stands where it cannot see what is sent."""
    named = list(settings.MIDDLEWARE)
    ours = next((name for name in named if name in _ALIASES), None)
    if ours is None:
        return [
            Warning(
                "StreamGuardMiddleware is not in MIDDLEWARE: no stream of this project is under guard.",
                hint=f'Write "{MIDDLEWARE}" as the first line of MIDDLEWARE, or right below GZipMiddleware.',
                id=f"{LABEL}.W001",
            )
        ]
    if _GZIP in named and named.index(ours) < named.index(_GZIP):
        return [
            Warning(
                "StreamGuardMiddleware stands above GZipMiddleware: what it counts and formats is compressed"
                " already, in pieces that are not chunks.",
                hint=f'Move "{MIDDLEWARE}" below "{_GZIP}".',
                id=f"{LABEL}.W001",
            )
        ]
    return []
