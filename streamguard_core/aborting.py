"""Breaks a connection off whose reader has stopped reading, where the server lets an application do so."""

from __future__ import annotations

from streamguard_core.lifespan import Send


def abort(send: Send | None) -> None:
    """Abort the transport behind a server's `send`, if that is the connection's own.

    ASGI has no word for it: a server that is told nothing closes the connection politely, which for
    a reader that has frozen means never, since what it buffers comes first. uvicorn's `send` is a
    method of the object that holds the transport; under other servers nothing is done.
    """
    owner = getattr(send, "__self__", None)
    scope = getattr(owner, "scope", None)
    if not isinstance(scope, dict) or not str(scope.get("http_version")).startswith("1."):
        return  # One transport may carry other streams besides.
    give_up = getattr(getattr(owner, "transport", None), "abort", None)
    if callable(give_up):
        give_up()
