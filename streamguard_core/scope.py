"""How the layers of one request find each other: a context variable with everything that must end with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from streamguard_core.causes import Cause
from streamguard_core.producers import Report


class Governed(Protocol):
    """Anything a scope ends: a session, or a transport call outside any session."""

    def disconnected(self, detail: str = "") -> None:
        """The reader's transport is gone (intent)."""

    def terminate(self, cause: Cause, detail: str = "") -> None:
        """End now, with authority. Must be safe to call from any thread, and twice."""


class Scope:
    """One request (or job): the sessions and provider calls that end when its reader leaves.

    `session` is where a provider call made in this scope reports itself, if there is one.
    """

    def __init__(self) -> None:
        self.members: list[Governed] = []
        self.session: Report | None = None
        self.gone: str | None = None
        """Why the reader is gone, once it is; whoever joins afterwards is ended at once."""
        self.ended: tuple[Cause, str] | None = None
        """What everything here was ended with; it holds for whoever joins afterwards, too."""

    def add(self, member: Governed) -> None:
        """Put `member` under this scope; it ends at once if the reader has already left."""
        self.members.append(member)
        if self.ended is not None:
            member.terminate(*self.ended)
        elif self.gone is not None:
            member.disconnected(self.gone)

    def discard(self, member: Governed) -> None:
        """Forget `member`, which has ended."""
        if member in self.members:
            self.members.remove(member)

    def disconnected(self, detail: str = "") -> None:
        """The reader has left: tell every member (G9: each one's own policy decides)."""
        if self.gone is None:
            self.gone = detail
            for member in tuple(self.members):
                member.disconnected(detail)

    def terminate(self, cause: Cause, detail: str = "") -> None:
        """End every member now, and whoever joins from now on."""
        self.ended = self.ended or (cause, detail)
        for member in tuple(self.members):
            member.terminate(cause, detail)


_current: ContextVar[Scope | None] = ContextVar("streamguard_scope", default=None)


def current_scope() -> Scope | None:
    """The scope this task or thread works in, or None outside of any."""
    return _current.get()


@contextmanager
def use_scope(scope: Scope) -> Iterator[Scope]:
    """Work inside `scope`; tasks and threads started with a copied context are inside too."""
    token = _current.set(scope)
    try:
        yield scope
    finally:
        _current.reset(token)
