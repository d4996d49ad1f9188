"""The control API: what the engine tells over HTTP about itself, under `/_engine/`."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Final, Protocol
from urllib.parse import parse_qs

from streamguard_testing.faults import Fault
from streamguard_testing.http1 import Request
from streamguard_testing.records import LiveRequest, RequestLog, State

PREFIX: Final = "/_engine/"


class Controlled(Protocol):
    """What the control API needs of an engine."""

    log: RequestLog
    fault: Fault

    def reset(self) -> None:
        """Forget the requests that have ended, and how often faults were met."""

    @property
    def open_connections(self) -> int:
        """How many connections are open, this one included."""


def respond(engine: Controlled, request: Request) -> tuple[int, object]:
    """Answer a request under `/_engine/`.

    Returns:
        The status, and what is to be sent as JSON.
    """
    name, _, rest = request.url.path.removeprefix(PREFIX).partition("/")
    wanted = {"health": "GET", "requests": "GET", "reset": "POST", "fault": "POST"}.get(name)
    if wanted is None or (rest and name != "requests"):
        return 404, _error("there are health, requests, requests/{id}, reset and fault")
    if request.method != wanted:
        return 405, _error(f"{name} is asked with {wanted}")
    if name == "reset":
        known = len(engine.log.all())
        engine.reset()
        running = len(engine.log.all())
        return 200, {"forgotten": known - running, "running": running}
    if name == "fault":
        return _set_fault(engine, request)
    if name == "health":
        return 200, _health(engine)
    return _requests(engine, request, rest)


def _health(engine: Controlled) -> dict[str, Any]:
    running = [live for live in engine.log.all() if live.state is not State.ENDED]
    return {
        "status": "ok",
        "now": time.monotonic(),
        "open_connections": engine.open_connections,
        "requests": len(engine.log.all()),
        "running": len(running),
    }


def _requests(engine: Controlled, request: Request, request_id: str) -> tuple[int, object]:
    try:
        after = _after(request)
    except ValueError:
        return 400, _error("'after' is an instant: seconds of the monotonic clock")
    if not request_id:
        return 200, [_described(engine, live, after) for live in engine.log.all()]
    live = engine.log.get(request_id)
    if live is None:
        return 404, _error("no request with this id is remembered")
    return 200, _described(engine, live, after)


def _described(engine: Controlled, live: LiveRequest, after: float | None) -> dict[str, Any]:
    said = live.snapshot().as_dict()
    if after is not None:
        said["generated_after"] = engine.log.generated_after(live.id, after)
    return said


def _after(request: Request) -> float | None:
    given = parse_qs(request.url.query).get("after")
    return float(given[-1]) if given else None


def _set_fault(engine: Controlled, request: Request) -> tuple[int, object]:
    try:
        engine.fault = Fault.from_json(request.body.decode("utf-8", "replace"))
    except ValueError as error:
        return 400, _error(str(error))
    return 200, asdict(engine.fault)


def _error(message: str) -> dict[str, str]:
    return {"error": message}
