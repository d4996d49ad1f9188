"""A small application whose streams do not end by themselves, with its receipts in a ledger.

Environment: `LEDGER`, the folder of the receipts; `GRACE` and `SIGNALS=off`, of the middleware; `GUARD=off`
for the same application without it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from endless import numbers
from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from streamguard_asgi import GuardedResponse, StreamGuardMiddleware
from streamguard_core import Shutdown, drain
from streamguard_ledger import SQLiteLedger

GUARDED = os.environ.get("GUARD") != "off"


async def big(state: State) -> AsyncIterator[str]:
    """More than any buffer takes; `state.made` says how much of it was taken."""
    while True:
        state.made += 1
        yield "x" * 65536


async def endpoint(request: Request) -> Response:
    """`/` answers, `/made` with how much `/big` has made; the others stream."""
    path = request.url.path
    if path == "/":
        return PlainTextResponse("")
    if path == "/plain" or not GUARDED:
        return StreamingResponse(numbers(), media_type="text/event-stream")
    if path == "/short":
        return GuardedResponse(numbers(5))
    if path == "/big":
        return GuardedResponse(big(request.app.state))
    if path == "/made":
        return PlainTextResponse(str(request.app.state.made))
    if path == "/drain":
        return GuardedResponse(numbers(), on_disconnect=drain(60))
    return GuardedResponse(numbers())


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Nothing to set up: the ledger is opened at import, for servers without a lifespan."""
    yield


def _middleware(app: Any) -> Any:
    if not GUARDED:
        return app
    grace = float(os.environ.get("GRACE", "0"))
    signals = os.environ.get("SIGNALS") != "off"
    ledger = SQLiteLedger(os.environ["LEDGER"])
    return StreamGuardMiddleware(
        app, ledger=ledger, shutdown=Shutdown(grace=grace) if signals else False
    )


paths = ["/", "/stream", "/short", "/big", "/made", "/drain", "/plain"]
application = Starlette(routes=[Route(path, endpoint) for path in paths], lifespan=lifespan)
application.state.made = 0
app = _middleware(application)
