"""The shapes in which providers and gateways say inside a 200 that something went wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from streamguard_testing.bodies import BadRequest, encode
from streamguard_testing.dialects import Ask, Dialect, Totals, Voice
from streamguard_testing.faults import ErrorShape, Fault
from streamguard_testing.openai_dialect import error_of, usage_of

# These are made of the fields of a server-sent event, so there is no other way to say them.
_EVENTS_ONLY: Final = frozenset(
    {ErrorShape.EVENT, ErrorShape.FAILED, ErrorShape.BESIDE, ErrorShape.FIELD}
)


def check(fault: Fault, ask: Ask) -> None:
    """Refuse a shape that this request's answer cannot have.

    Raises:
        BadRequest: When it cannot.
    """
    if fault.error_shape in _EVENTS_ONLY and ask.stream and not ask.events:
        raise BadRequest(
            f"an error of the shape {fault.error_shape} needs server-sent events;"
            " this answer has none"
        )


def frames(fault: Fault, voice: Voice, totals: Totals) -> bytes:
    """Return the frames of an error in a stream, up to the end of it."""
    make = _FRAMES.get(fault.error_shape)
    if make is not None:
        return make(fault, totals)
    said = _said(fault)
    if said is not None:
        return voice.carry(said)
    return voice.error(fault.error_status, fault.error_message)


def body(fault: Fault, dialect: Dialect, status: int) -> bytes:
    """Return the body that goes with an error status; as in frames where both have the shape."""
    said = _said(replace(fault, error_status=status))
    if said is not None:
        return encode(said)
    return dialect.error_body(status, fault.error_message)


def bare(fault: Fault) -> bytes:
    """Return an error as plain JSON."""
    return encode(_nested(fault))


def _nested(fault: Fault) -> dict[str, Any]:
    return error_of(fault.error_status, fault.error_message)


def _code(fault: Fault) -> str:
    return "rate_limit_exceeded" if fault.error_status == 429 else "server_error"


def _said(fault: Fault) -> Mapping[str, Any] | None:
    """Return the object of a shape that is an object and nothing else."""
    match fault.error_shape:
        case ErrorShape.NESTED:
            return _nested(fault)
        case ErrorShape.TEXT:
            return {"error": fault.error_message}
        case ErrorShape.FLAT:
            said = {"code": _code(fault), "message": fault.error_message, "param": None}
            return {"type": "error", **said}
        case _:
            return None


def _event(fault: Fault, totals: Totals) -> bytes:
    return b"event: error\ndata: " + encode(_nested(fault)) + b"\n\n"


def _failed(fault: Fault, totals: Totals) -> bytes:
    error = {"code": _code(fault), "message": fault.error_message}
    response = {"id": "resp_0", "object": "response", "status": "failed", "error": error}
    said = {"type": "response.failed", "response": response | {"output": [], "usage": None}}
    return b"event: response.failed\ndata: " + encode(said) + b"\n\n"


def _beside(fault: Fault, totals: Totals) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": "error"}
    error = {"code": fault.error_status, "message": fault.error_message}
    said = {"object": "chat.completion.chunk", "choices": [choice], "error": error}
    return b"data: " + encode(said | {"usage": usage_of(totals)}) + b"\n\ndata: [DONE]\n\n"


def _field(fault: Fault, totals: Totals) -> bytes:
    error = _nested(fault)["error"] | {"code": fault.error_status}
    return b"error: " + encode(error) + b"\n\n"


def _bare(fault: Fault, totals: Totals) -> bytes:
    return bare(fault) + b"\n"


_FRAMES: Final[Mapping[ErrorShape, Callable[[Fault, Totals], bytes]]] = {
    ErrorShape.EVENT: _event,
    ErrorShape.FAILED: _failed,
    ErrorShape.BESIDE: _beside,
    ErrorShape.FIELD: _field,
    ErrorShape.BODY: _bare,
}
