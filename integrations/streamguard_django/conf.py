"""The settings dictionary `STREAMGUARD` in force, read once, when it is first needed."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from streamguard_core import UsageError
from streamguard_django.keys import KEYS, BadPathError

NAME: Final = "STREAMGUARD"
_EMPTY: Final[dict[str, Any]] = {}
"""For projects that have no such setting: the same object each time."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the settings.

    Attributes:
        id: of the system check, without its label.
        text: what is wrong.
        hint: what to write instead.
    """

    id: str
    text: str
    hint: str


def read(given: object) -> tuple[dict[str, Any], list[Problem]]:
    """Return what holds under a dictionary of settings, and what is wrong with it."""
    if not isinstance(given, Mapping):
        hint = f'Write {NAME} = {{"ON_RECEIPT": "project.receipts.keep"}}, or leave it out.'
        return {}, [Problem("E001", f"{NAME} is a {type(given).__name__}, not a dictionary.", hint)]
    problems = [_unknown(str(name)) for name in given if name not in KEYS]
    values = {}
    for name, key in KEYS.items():
        try:
            values[name] = key.read(given.get(name, key.default))
        except (ValueError, TypeError, UsageError) as error:
            id = "E004" if isinstance(error, BadPathError) else "E003"  # noqa: A001
            problems.append(
                Problem(id, f"{NAME}[{name!r}] cannot be used: {error}.", f"Write {key.hint}.")
            )
    return values, problems


def _unknown(name: str) -> Problem:
    near = difflib.get_close_matches(name.upper(), KEYS, 1)
    hint = f"Did you mean {near[0]!r}?" if near else f"The keys are {', '.join(KEYS)}."
    return Problem("E002", f"{NAME} has no key {name!r}.", hint)


class Settings:
    """The settings in force: `option("LEDGER")`.

    Invariant: one dictionary is read once in a process, by whoever is first, so that what it makes (a ledger
    with its writer) is made once.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._read: tuple[object, dict[str, Any], list[Problem]] | None = None

    def __call__(self, name: str) -> Any:
        """Return what holds for a key.

        Raises:
            ImproperlyConfigured: when anything is wrong with the settings; the system checks say all of it.
        """
        values, problems = self._in_force()
        if problems:
            raise ImproperlyConfigured(f"{problems[0].text} {problems[0].hint}")
        return values[name]

    def alone(self, name: str) -> Any:
        """Return what holds for a key without reading the others: before a server forks, nothing is made.

        Raises:
            ImproperlyConfigured: when it cannot be used, as `__call__()`.
        """
        given = getattr(settings, NAME, _EMPTY)
        is_read = self._read is not None and self._read[0] is given
        if isinstance(given, Mapping) and not is_read:
            try:
                return KEYS[name].read(given.get(name, KEYS[name].default))
            except (ValueError, TypeError, UsageError):
                pass  # read with the others, it is said in the words of the checks
        return self(name)

    def problems(self) -> list[Problem]:
        """Return all that is wrong with the settings."""
        return list(self._in_force()[1])

    def _in_force(self) -> tuple[dict[str, Any], list[Problem]]:
        given = getattr(settings, NAME, _EMPTY)
        found = self._read
        if found is None or found[0] is not given:
            with self._lock:
                found = self._read
                if found is None or found[0] is not given:
                    found = self._read = (given, *read(given))
        return found[1], found[2]

    def forget(self, *, setting: str, **_: object) -> None:
        """Tests override settings: what was read of the old ones no longer holds."""
        if setting == NAME:
            self._read = None


option: Final = Settings()
setting_changed.connect(option.forget, dispatch_uid="streamguard_django.conf")
