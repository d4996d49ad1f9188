"""Checks what a session is built with; a mistake is said where it was made (`UsageError`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from streamguard_core.clock import Clock
from streamguard_core.errors import UsageError
from streamguard_core.limits import Deadlines, Limits
from streamguard_core.observers import Observer

MAX_TAGS: Final = 16
MAX_TAG_LENGTH: Final = 256
"""Characters of a tag's name, and of its text, that are kept."""


def as_limits(speculative: int, inflight: int, size: int) -> Limits | None:
    """None for the defaults: they are shared."""
    if (speculative, inflight, size) == (8, 16, 1 << 20):
        return None
    return Limits(
        speculative_buffer_limit=speculative, max_inflight_commits=inflight, max_buffer_bytes=size
    )


def check_max_tokens(value: object) -> int:
    """The bound on what the provider may generate, in tokens."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UsageError(f"max_tokens={value!r} was given; it is a whole number of tokens, or None")
    return value


def check_tags(tags: Mapping[str, str]) -> Mapping[str, str]:
    """The tags as texts; a receipt has room for so many.

    What is too long is cut: often a tag comes from a request, and a long one must not cost anybody the answer.
    """
    if not isinstance(tags, Mapping):
        raise UsageError(
            f"tags of type {type(tags).__name__} were given; they are a mapping of names to texts"
        )
    plain = {str(key)[:MAX_TAG_LENGTH]: str(value)[:MAX_TAG_LENGTH] for key, value in tags.items()}
    if len(plain) > MAX_TAGS:
        raise UsageError(f"{len(plain)} tags were given; a receipt carries at most {MAX_TAGS}")
    return plain


def check_deadlines(value: Deadlines) -> Deadlines:
    """The deadlines, if that is what they are."""
    if not isinstance(value, Deadlines):
        raise UsageError(f"deadlines={value!r} was given; use Deadlines(idle=30, ...)")
    return value


def check_clock(value: Clock) -> Clock:
    """The clock, if it can tell the time."""
    if not hasattr(value, "monotonic_ns"):
        raise UsageError(
            f"clock of type {type(value).__name__} was given; a clock has monotonic_ns() and wall_us()"
        )
    return value


def check_observers(given: Iterable[Observer]) -> tuple[Observer, ...]:
    """The observers, all of which can be called."""
    observers = tuple(given)
    for each in observers:
        if not callable(each):
            raise UsageError(
                f"observer of type {type(each).__name__} was given; an observer is a callable that takes a notice"
            )
    return observers
