"""What may stand in the settings dictionary `STREAMGUARD`: each key, its default, how it is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.utils.module_loading import import_string

from streamguard_core import Deadlines
from streamguard_core.ledger import check_ledger
from streamguard_core.limits import check_seconds
from streamguard_core.policies import as_policy, cancel
from streamguard_core.price import check_pricer
from streamguard_core.shutdown import DEFAULT_FLUSH, DEFAULT_GRACE
from streamguard_django.resume import OPTIONS, Resume


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the dictionary.

    Attributes:
        default: what holds where the key is missing.
        read: turns what was written into what is used; raises `ValueError`, or what the core raises.
        hint: what to write.
    """

    default: Any
    read: Callable[[Any], Any]
    hint: str


class BadPathError(ValueError):
    """A dotted path leads nowhere."""


def _resolve(value: Any) -> Any:
    """What a dotted path names; anything else is what it is."""
    if not isinstance(value, str):
        return value
    try:
        return import_string(value)
    except ImportError as error:
        raise BadPathError(f"{value!r} cannot be imported ({error})") from error


def _made(value: Any, attribute: str) -> Any:
    """An object with `attribute`, or what a callable returns that makes one."""
    found = _resolve(value)
    if found is None or (hasattr(found, attribute) and not isinstance(found, type)):
        return found
    return found() if callable(found) else found


def _ledger(value: Any) -> Any:
    made = _made(value, "append_open")
    return None if made is None else check_ledger(made)


def _prices(value: Any) -> Any:
    made = _made(value, "price")
    return None if made is None else check_pricer(made)


def _callable(value: Any) -> Any:
    found = _resolve(value)
    if found is not None and not callable(found):
        raise ValueError(f"{type(found).__name__} cannot be called")
    return found


def _policy(value: Any) -> Any:
    return as_policy(cancel if value == "cancel" else _resolve(value))


def _deadlines(value: Any) -> Deadlines:
    if isinstance(value, Deadlines):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"{type(value).__name__} is no dictionary")
    unknown = sorted(set(value) - set(Deadlines.__struct_fields__))
    if unknown:
        raise ValueError(f"there is no deadline {unknown[0]!r}")
    return Deadlines(**value)


def _resume(value: Any) -> Resume:
    if not isinstance(value, Mapping):
        raise ValueError(f"{type(value).__name__} is no dictionary")
    unknown = sorted(set(value) - set(OPTIONS))
    if unknown:
        raise ValueError(f"there is no option {unknown[0]!r}; there are {', '.join(OPTIONS)}")
    return Resume(**{**value, "owner": _callable(value.get("owner"))})


def _tags(value: Any) -> Any:
    found = _resolve(value)
    if callable(found) or isinstance(found, Mapping):
        return found
    raise ValueError(f"{type(found).__name__} is neither a dictionary nor can it be called")


def _patterns(value: Any) -> tuple[re.Pattern[str], ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"{value!r} is no list")
    try:
        return tuple(re.compile(each) for each in value)
    except (re.error, TypeError) as error:
        raise ValueError(f"a pattern cannot be compiled ({error})") from error


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither True nor False")
    return value


def _seconds(value: Any) -> float:
    return check_seconds("the value", value)


def _seconds_or_none(value: Any) -> float | None:
    return None if value is None else _seconds(value)


def _patience(value: Any) -> float:
    """Seconds, of which there may be none."""
    return 0.0 if value == 0 and not isinstance(value, bool) else _seconds(value)


def _patience_or_none(value: Any) -> float | None:
    return None if value is None else _patience(value)


_CALLABLE_HINT: Final = 'a function, or its dotted path such as "project.receipts.keep"'

KEYS: Final[dict[str, Key]] = {
    "LEDGER": Key(
        None,
        _ledger,
        'a ledger, a callable that makes one, or the dotted path of either, such as "project.ledger.LEDGER"',
    ),
    "PRICES": Key(
        None,
        _prices,
        'a price source, a callable that makes one, or the dotted path of either, such as "project.prices.BOOK"',
    ),
    "ON_RECEIPT": Key(None, _callable, _CALLABLE_HINT),
    "ON_DISCONNECT": Key(
        "cancel",
        _policy,
        '"cancel", a policy such as streamguard_core.drain(30), or the dotted path of one',
    ),
    "DEADLINES": Key(
        {},
        _deadlines,
        'a dictionary of seconds, such as {"first_token": 20, "idle": 10, "consumer_stall": 30}',
    ),
    "TAGS": Key(
        {},
        _tags,
        "a dictionary of texts, or a function of the request that returns one, or its dotted path",
    ),
    "EXCLUDE": Key(
        (), _patterns, r'a list of regular expressions for paths, such as [r"^/admin/", r"\.csv$"]'
    ),
    "PING": Key(15.0, _seconds_or_none, "a positive number of seconds, or None for no keep-alives"),
    "RESUME": Key(
        {},
        _resume,
        'a dictionary, such as {"window": 30, "owner": "project.readers.owner_of"}',
    ),
    "MIRROR": Key(True, _flag, "True or False"),
    "WATCH_SOCKET": Key(True, _flag, "True or False"),
    "CLOSE_TIMEOUT": Key(5.0, _seconds, "a positive number of seconds"),
    "SHUTDOWN_GRACE": Key(
        DEFAULT_GRACE,
        _patience_or_none,
        "a number of seconds, 0 to cut at once, or None for no signal handler",
    ),
    "SHUTDOWN_FLUSH": Key(DEFAULT_FLUSH, _patience, "a number of seconds, 0 for no wait"),
}
"""Every key that `STREAMGUARD` may have; `docs/django.md` has the same table."""
