"""System checks that say what is wrong with a project's settings, and what to write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004

from streamguard_django.conf import NAME, option

LABEL: Final = "streamguard"
MIDDLEWARE: Final = "streamguard_django.StreamGuardMiddleware"
_ALIASES: Final = (MIDDLEWARE, "streamguard_django.middleware.StreamGuardMiddleware")
_GZIP: Final = "django.middleware.gzip.GZipMiddleware"


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
