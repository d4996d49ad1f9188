"""What `streamguard inspect` says of a decoded stream: for somebody to read, and as plain data."""

from __future__ import annotations

import json
from typing import Any, Final

from rich.text import Text

from streamguard_cli.capture import Capture
from streamguard_cli.console import console
from streamguard_core import Count
from streamguard_providers import End, EndState, OpenStream, SSEDecoder, ToolCall

_SHOWN: Final = 20_000
_OK: Final = range(200, 300)
_COUNTS: Final = ("input", "cached_input", "cache_write", "output", "reasoning")
_STYLES: Final = {
    EndState.COMPLETED: "bold green",
    EndState.BLOCKED: "bold yellow",
    EndState.REFUSED: "bold yellow",
    EndState.COMPLETED_UNCONFIRMED: "bold yellow",
}
#: Joins the parts of an emoji; harmless, unlike the other characters that cannot be printed.
_JOINER: Final = "\N{ZERO WIDTH JOINER}"


def _anomalies(capture: Capture, stream: OpenStream, end: End) -> list[str]:
    """Everything that an ordinary stream has not."""
    framing = stream.decoder.framing
    events = framing if isinstance(framing, SSEDecoder) else SSEDecoder()
    sample = events.unknown_sample.decode("utf-8", "replace")
    status = capture.status
    found = (
        (status is not None and status not in _OK, f"the HTTP status is {status}"),
        (not _is_response(stream, end), "nothing in it is known to be of a response"),
        (end.state is EndState.TRUNCATED, "it ends without its terminal marker"),
        (
            end.state is EndState.COMPLETED_UNCONFIRMED,
            "it has a terminal marker, and no finish reason",
        ),
        (framing.truncated, "it breaks off within an event, which was dropped"),
        (framing.unterminated, "its last event lacks its end, and was whole all the same"),
        (end.malformed, f"payloads that could not be read and were skipped: {end.malformed}"),
        (events.comments, f"comments (keep-alives): {events.comments}"),
        (
            events.unknown_fields,
            f"lines that are no field of the standard: {events.unknown_fields}, first {sample!r}",
        ),
        (end.cause is not None, f"reading it broke off: {type(end.cause).__name__}"),
        (end.complete and end.reported is None, "no usage was reported"),
        (
            stream.accumulator.dropped_bytes,
            f"bytes of output that were not kept: {stream.accumulator.dropped_bytes}",
        ),
    )
    return [text for applies, text in found if applies]


def _is_response(stream: OpenStream, end: End) -> bool:
    """Whether anything was understood; if nothing was, the dialect is a mere guess."""
    known = (end.error, end.model, end.finish, end.blocked, end.reported)
    return stream.accumulator.chunks > 0 or any(one is not None for one in known)


def _dialect(stream: OpenStream, end: End) -> str | None:
    return end.dialect if _is_response(stream, end) else None


def data(capture: Capture, stream: OpenStream, end: End) -> dict[str, Any]:
    """All of it, as plain data."""
    kept, error = stream.accumulator, end.error
    return {
        "state": end.state.value,
        "complete": end.complete,
        "dialect": _dialect(stream, end),
        "model": end.model,
        "status": capture.status,
        "finish": end.finish,
        "blocked": end.blocked,
        "choices": [
            {
                "index": choice,
                "finish": end.finishes.get(choice),
                "text": kept.text(choice),
                "reasoning": kept.reasoning(choice),
                "refusal": kept.refusal(choice),
                "tool_calls": [_call(call) for call in end.tool_calls if call.choice == choice],
            }
            for choice in kept.choices
        ],
        "usage": {name: _count(getattr(end.usage, name)) for name in _COUNTS},
        "usage_partial": end.usage_partial,
        "reported": None if end.reported is None else dict(end.reported),
        "error": None
        if error is None
        else {
            name: getattr(error, name)
            for name in ("type", "code", "status", "retryable", "retry_after", "message")
        },
        "anomalies": _anomalies(capture, stream, end),
    }


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "index": call.index,
        "id": call.id,
        "name": call.name,
        "kind": call.kind,
        "arguments": call.arguments,
        "executable": call.executable,
        "obstacle": call.obstacle,
    }


def _count(count: Count) -> dict[str, Any]:
    return {
        "value": count.value,
        "lower": count.lower,
        "upper": count.upper,
        "source": count.source.value,
    }


# -- a terminal ------------------------------------------------------------------------------------


def show(capture: Capture, stream: OpenStream, end: End) -> None:
    """Print it for somebody to read."""
    out = console()
    style = _STYLES.get(end.state, "bold red")
    out.print(Text.assemble("State      ", (end.state.value, style)))
    usage = ", ".join(filter(None, (_counted(name, end) for name in _COUNTS)))
    partial = " (may have grown)" if end.usage_partial else ""
    reported = None if end.reported is None else json.dumps(end.reported, ensure_ascii=False)
    facts = (
        ("Dialect", _dialect(stream, end) or "unknown"),
        ("Model", end.model),
        ("Finish", end.finish),
        ("Blocked", end.blocked),
        ("Usage", (usage or "unknown") + partial),
        ("Reported", reported),
        ("Error", None if end.error is None else str(end.error)),
        ("Message", None if end.error is None else end.error.message),
    )
    for name, value in facts:
        if value is not None:
            out.print(f"{name:<11}{_safe(value)}")
    _show_output(stream, end)
    anomalies = _anomalies(capture, stream, end)
    if anomalies:
        out.print("\nAnomalies:")
        for anomaly in anomalies:
            out.print(f"  - {_safe(anomaly)}")


def _show_output(stream: OpenStream, end: End) -> None:
    kept, out = stream.accumulator, console()
    for choice in kept.choices:
        of = f" of choice {choice}" if choice else ""
        for name, text in (
            ("Reasoning", kept.reasoning(choice)),
            ("Text", kept.text(choice)),
            ("Refusal", kept.refusal(choice)),
        ):
            if text:
                out.print(f"\n{name}{of}:\n{_cut(text)}")
    if end.tool_calls:
        out.print("\nTool calls:")
    for call in end.tool_calls:
        name = call.name or "unnamed"
        of = f" of choice {call.choice}" if call.choice else ""
        may = "executable" if call.executable else f"not executable: {call.obstacle}"
        out.print(f"  {_safe(f'{name} {_cut(call.arguments)}')} ({may}){of}")


def _counted(name: str, end: End) -> str | None:
    count: Count = getattr(end.usage, name)
    label = name.replace("_", " ")
    if count.value is not None and count.value == count.upper:
        return f"{label} {count.value}"
    if count.upper is not None:
        return f"{label} {count.lower}..{count.upper}"
    return f"{label} >={count.lower}" if count.known or count.lower else None


def _cut(text: str) -> str:
    """As much of a text as is worth showing, safe for a terminal."""
    more = len(text) - _SHOWN
    return _safe(text[:_SHOWN]) + (f" [{more} more characters; --json has all]" if more > 0 else "")


def _safe(text: str) -> str:
    """Text whose lines are kept, without what could steer a terminal."""
    return "".join(
        one if one.isprintable() or one in {"\n", "\t", _JOINER} else "\N{REPLACEMENT CHARACTER}"
        for one in text
    )
