"""What providers and their wire formats can fail with, in words that quote nobody's text or key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import httpx

from streamguard_core import CutOffError, ProducerError

_MAX_MESSAGE: Final = 1000
_WORD: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")

#: Statuses after which the same call may succeed.
_RETRYABLE: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})

#: What error types mean as a status, for errors that come inside a 200.
_STATUS_OF_TYPE: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "insufficient_quota": 429,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "api_error": 500,
    "server_error": 500,
    "internal_server_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
    # Google's names, which also come without a code.
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class ProviderError(ProducerError):
    """A provider refused a call, or said in mid-stream that it failed.

    The text names provider, type, code and status only. What the provider itself wrote may quote
    the prompt or the key, so it is kept apart in `message`: do not log it.

    Args:
        text: what is shown; made by `provider_error`.
        provider: who failed.
        type: the provider's error type, if it has the form of a word.
        code: the provider's error code, if it has the form of a word.
        status: the HTTP status, or what stands for it inside a 200.
        retryable: whether the same call may succeed later.
        request_id: the provider's name for the call.
        retry_after: seconds the provider asked to wait.
        message: what the provider wrote; may quote the prompt.
    """

    def __init__(
        self,
        text: str,
        *,
        provider: str = "provider",
        type: str | None = None,  # noqa: A002 - the word of every provider
        code: str | None = None,
        status: int | None = None,
        retryable: bool = False,
        request_id: str | None = None,
        retry_after: float | None = None,
        message: str | None = None,
    ) -> None:
        super().__init__(text)
        self.provider = provider
        self.type = type
        self.code = code
        self.status = status
        self.retryable = retryable
        self.request_id = request_id
        self.retry_after = retry_after
        self.message = message


class CutOffReadError(CutOffError, httpx.ReadError):
    """StreamGuard closed the connection: the reader it was for is gone, or the stream was ended.

    It is a `ReadError` of the library in use (for httpx2 a class of its own with this name), so
    that SDKs handle it; and a `streamguard_core.CutOffError`, by which an application recognises
    it. There is nothing to retry.
    """


class EventTooLarge(ProducerError):
    """One event or line is larger than the decoder's limit; the decoder cannot be used any more.

    Args:
        limit: the limit in bytes.
        offset: how many bytes of the stream had been taken in.
    """

    def __init__(self, limit: int, offset: int) -> None:
        super().__init__(limit, offset)
        self.limit = limit
        self.offset = offset

    def __str__(self) -> str:
        return (
            f"reading a stream: an event is larger than {self.limit} bytes (at byte {self.offset});"
            " raise the decoder's limit if the provider really sends such events"
        )


def provider_error(
    provider: str,
    reported: object = None,
    *,
    what: str = "reported an error",
    status: int | None = None,
    retryable: bool | None = None,
    request_id: str | None = None,
    retry_after: float | None = None,
) -> ProviderError:
    """Make a `ProviderError` from an error object in any of the shapes providers use.

    Args:
        provider: who failed.
        reported: the provider's error object, or its text, or nothing.
        what: what happened, as the verb of a sentence.
        status: the HTTP status of the response, if it was an error status.
        retryable: whether a retry may succeed; derived from the status when None.
        request_id: the provider's name for the call.
        retry_after: seconds the provider asked to wait.
    """
    said = unwrap(reported)
    kind, code = _word(said.get("type")), _word(said.get("code"))
    if status is None:
        status = _status(said, kind, code)
    if retryable is None:
        retryable = status in _RETRYABLE and "insufficient_quota" not in {kind, code}
    facts = (("type", kind), ("code", code), ("status", status))
    known = ", ".join(f"{name} {value}" for name, value in facts if value is not None)
    hint = "it may succeed later" if retryable else "a retry will not help"
    return ProviderError(
        f"{provider} {what} ({known or 'no details'}); {hint}",
        provider=provider,
        type=kind,
        code=code,
        status=status,
        retryable=retryable,
        request_id=request_id,
        retry_after=retry_after,
        message=_message(said),
    )


def _message(said: Mapping[str, Any]) -> str | None:
    message = said.get("message")
    return message[:_MAX_MESSAGE] if isinstance(message, str) else None


def unwrap(reported: object) -> Mapping[str, Any]:
    """The fields of an error in any shape: nested, flat, or a text."""
    if isinstance(reported, Mapping):
        inner = reported.get("error", reported.get("detail"))
        if isinstance(inner, Mapping):
            return inner
        if isinstance(inner, str):
            return {"message": inner} | {k: v for k, v in reported.items() if k != "error"}
        return reported
    return {"message": reported} if isinstance(reported, str) else {}


def _word(value: object) -> str | None:
    """A type or code as told by the provider: nothing that could be a sentence of somebody's."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def _status(said: Mapping[str, Any], kind: str | None, code: str | None) -> int | None:
    for value in (said.get("status_code"), said.get("code"), said.get("status")):
        if isinstance(value, int) and 400 <= value <= 599:
            return value
    if code is not None and code.isdigit() and 400 <= int(code) <= 599:
        return int(code)
    return _STATUS_OF_TYPE.get(kind or "") or _STATUS_OF_TYPE.get(code or "")
