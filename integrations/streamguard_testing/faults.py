"""Faults: how the engine misbehaves, chosen per request or for the whole server."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Final, TypeVar

_E = TypeVar("_E", bound=StrEnum)

FAULT_HEADER: Final = "x-streamguard-fault"


class Usage(StrEnum):
    """When the engine reports what was used."""

    NORMAL = "normal"
    LATE = "late"
    NEVER = "never"


class Cut(StrEnum):
    """How a response without terminal marker ends on the wire."""

    CLEAN = "clean"  #: the HTTP body ends correctly: only the dialect's own marker is missing
    ABRUPT = "abrupt"  #: the connection is closed in the middle of the HTTP body
    RESET = "reset"  #: the connection is reset


class ErrorShape(StrEnum):
    """What an error inside a 200 looks like."""

    NATIVE = "native"  #: as the provider whose dialect it is says it
    NESTED = "nested"  #: `{"error": {...}}`
    EVENT = "event"  #: the same in an event named `error`
    FLAT = "flat"  #: `{"type": "error", "code": ..., "message": ...}`
    FAILED = "failed"  #: an event `response.failed`
    TEXT = "text"  #: `{"error": "text"}`
    BESIDE = "beside"  #: an error beside choices and usage, and [DONE]
    FIELD = "field"  #: a field `error:` of its own, and no data
    BODY = (
        "body"  #: bare JSON: the whole body before the first token, a line among the events later
    )


class Billing(StrEnum):
    """What a reader who leaves is billed for."""

    STOPS = "stops"  #: generation stops, and so does the bill
    FULL = "full"  #: generation goes on to its end, and all of it is billed


class Break(StrEnum):
    """What happens where a response breaks off."""

    STALL = "stall"
    CUT = "cut"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Everything the engine can do wrong; the default does nothing wrong.

    Every number of tokens counts from the start of the answer; 0 means before the first token.

    Args:
        header_delay: Seconds of silence, without headers, once a slot is free.
        first_token_delay: Seconds of "thinking" before the first token; the engine's own when None.
        stall_after: After that many tokens nothing more comes, on an open connection.
        cut_after: After that many tokens the response ends without the dialect's terminal marker.
        cut: How it ends on the wire then.
        error_after: After that many tokens an error frame, inside the 200, and the end.
        status: Answer with this error status instead of tokens.
        retry_after: Value of the `retry-after` header sent with `status`.
        error_message: Text of the error frame or error body.
        error_status: The status that the error frame would have had; decides about its words.
        error_shape: What the error frame looks like; `event`, `failed`, `beside` and `field` are
            for server-sent events alone.
        headers: Further headers of the response, such as `x-ratelimit-remaining-requests`.
        times: Only so many requests get this fault, and those that follow none; all when None.
            One that a request chose is counted for requests with the same fault and the same id.
        ignore_close: Generate to the end even though the reader has left.
        billing: What a reader who leaves is billed for; with `full` generation goes on as well.
        trickle_after_done: Keep the connection open after the terminal marker and send comments or
            blank lines until the reader leaves (ten minutes at most).
        trickle_interval: Seconds between two of those.
        usage: When usage is reported: `normal`, `late` (`usage_delay` after the rest) or `never`.
        usage_delay: Seconds between the finish reason and the usage when it is late.
        reasoning_tokens: So many tokens of reasoning come before the answer. This and the next are
            nothing wrong, but as seldom, and chosen in the same way.
        tool_call: Call one of the tools that a request offers, whether or not it insists.

    Raises:
        ValueError: When a value is impossible, or two faults contradict each other.
    """

    header_delay: float = 0.0
    first_token_delay: float | None = None
    stall_after: int | None = None
    cut_after: int | None = None
    cut: Cut = Cut.CLEAN
    error_after: int | None = None
    status: int | None = None
    retry_after: int | None = None
    error_message: str = "the engine was told to fail"
    error_status: int = 500
    error_shape: ErrorShape = ErrorShape.NATIVE
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    times: int | None = None
    ignore_close: bool = False
    billing: Billing = Billing.STOPS
    trickle_after_done: bool = False
    trickle_interval: float = 0.05
    usage: Usage = Usage.NORMAL
    usage_delay: float = 0.25
    reasoning_tokens: int = 0
    tool_call: bool = False

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            _check(name, getattr(self, name), kinds)
        for name, choices in _CHOICES.items():
            object.__setattr__(self, name, _choice(choices, name, getattr(self, name)))
        for name in ("status", "error_status"):
            status = getattr(self, name)
            if status is not None and not 400 <= status <= 599:
                raise ValueError(f"{name} must be an error status from 400 to 599, got {status}")
        _check_headers(self.headers)
        breaks = [f"{name}_after" for name in Break if getattr(self, f"{name}_after") is not None]
        if len(breaks) > 1:
            raise ValueError(f"a response breaks off only once: give one of {' and '.join(breaks)}")

    def break_point(self) -> tuple[Break, int] | None:
        """Return what breaks the response off and after how many tokens; None if nothing does."""
        for name in Break:
            after: int | None = getattr(self, f"{name}_after")
            if after is not None:
                return name, after
        return None

    def overridden(self, given: Mapping[str, Any]) -> Fault:
        """Return this fault with some fields replaced by those of a JSON object.

        Raises:
            ValueError: When a field is unknown or its value is impossible.
        """
        known = [known.name for known in fields(self)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(f"no such fault: {', '.join(unknown)}; there are {', '.join(known)}")
        # A break that the request chooses replaces the server's, whichever kind that is.
        breaks = dict.fromkeys((f"{name}_after" for name in Break), None)
        return replace(self, **{**(breaks if breaks.keys() & given.keys() else {}), **given})

    @classmethod
    def from_json(cls, text: str, base: Fault | None = None) -> Fault:
        """Return `base` (nothing wrong when None) overridden by a JSON object given as text.

        Raises:
            ValueError: When the text is no JSON object, or not a fault.

        Example:
            >>> Fault.from_json('{"cut_after": 3}') == Fault(cut_after=3)
            True
        """
        try:
            given = json.loads(text)
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise ValueError('a fault is a JSON object such as {"cut_after": 3}')
        return (base or cls()).overridden(given)

    def to_header(self) -> dict[str, str]:
        """Return the request header that asks the engine for this fault.

        Example:
            >>> Fault(cut_after=3).to_header()
            {'x-streamguard-fault': '{"cut_after": 3}'}
        """
        plain = asdict(Fault())
        chosen = {name: value for name, value in asdict(self).items() if value != plain[name]}
        return {FAULT_HEADER: json.dumps(chosen)}


_NUMBER: Final = (int, float)
_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "header_delay": _NUMBER,
    "first_token_delay": (*_NUMBER, type(None)),
    "stall_after": (int, type(None)),
    "cut_after": (int, type(None)),
    "error_after": (int, type(None)),
    "status": (int, type(None)),
    "retry_after": (int, type(None)),
    "error_message": (str,),
    "error_status": (int,),
    "headers": (dict,),
    "times": (int, type(None)),
    "ignore_close": (bool,),
    "trickle_after_done": (bool,),
    "trickle_interval": _NUMBER,
    "usage_delay": _NUMBER,
    "reasoning_tokens": (int,),
    "tool_call": (bool,),
}


_CHOICES: Final[Mapping[str, type[StrEnum]]] = {
    "cut": Cut,
    "usage": Usage,
    "error_shape": ErrorShape,
    "billing": Billing,
}
_HEADER: Final = re.compile(r"[A-Za-z0-9-]+: [ -~]*")


def _check_headers(headers: Mapping[Any, Any]) -> None:
    # Nothing that could end a header and begin another one.
    for name, value in headers.items():
        if not isinstance(value, str) or not _HEADER.fullmatch(f"{name}: {value}"):
            raise ValueError(f"headers must be names with plain texts; {name!r} is none")


def _check(name: str, value: object, kinds: tuple[type, ...]) -> None:
    # A bool is an int to Python, but nobody means one by it here.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ValueError(f"{name} must be {wanted}, got {type(value).__name__}")
    if isinstance(value, int | float) and not 0 <= value < float("inf"):
        raise ValueError(f"{name} must not be negative or infinite, got {value}")


def _choice(kind: type[_E], name: str, value: str) -> _E:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{name} must be one of {', '.join(kind)}, got {value!r}") from None
