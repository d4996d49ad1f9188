"""How the layers of one request find each other: a context variable with everything that must end with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Protocol

from streamguard_core.causes import Cause
from streamguard_core.ledger import Ledger, check_ledger
from streamguard_core.observers import Observer
from streamguard_core.options import SessionOptions
from streamguard_core.price import Pricer, check_pricer
from streamguard_core.producers import Report
from streamguard_core.recorded import RecordedStream
from streamguard_core.shutdown import DETAIL, Shutdown
from streamguard_core.termination import Termination

if TYPE_CHECKING:
    from streamguard_core.generators import NoticesGenerators


class Governed(Protocol):
    """Anything a scope ends: a session, or a transport call outside any session."""

    def disconnected(self, detail: str = "") -> None:
        """The reader's transport is gone (intent)."""

    def terminate(self, cause: Cause, detail: str = "") -> None:
        """End now, with authority. Must be safe to call from any thread, and twice.

        Args:
            cause: why.
            detail: in our own words; it stands on the receipt.
        """


class Scope:
    """One request (or job): the sessions and provider calls that end when its reader leaves.

    `session` is where a provider call made in this scope reports itself. Where there is none, a call
    through a guarded transport is a stream of its own, with a receipt of its own.

    Args:
        ledger: where the streams of such calls are recorded.
        prices: what such calls cost.
        observers: are told of them.
        tags: for their receipts.

    Raises:
        UsageError: when `ledger` is none, or `prices` are none.
    """

    def __init__(
        self,
        *,
        ledger: Ledger | None = None,
        prices: Pricer | None = None,
        observers: tuple[Observer, ...] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.ledger = None if ledger is None else check_ledger(ledger)
        self.prices = None if prices is None else check_pricer(prices)
        self._observers = observers
        self._tags = tags
        self.members: list[Governed] = []
        self.awaited: list[Callable[[], None]] = []
        """Called when this scope's work is over: a stream that waited for a retry is sealed."""
        self.session: Report | None = None
        self.gone: str | None = None
        """Why the reader is gone, once it is; whoever joins afterwards is ended at once."""
        self.ended: tuple[Cause, str] | None = None
        """What everything here was ended with; it holds for whoever joins afterwards, too."""
        self.shutdown: Shutdown | None = None
        """Who ends this scope when the process is told to go, where the adapter has one."""
        self.host: asyncio.Task[Any] | None = None
        """The task in which a server runs this request, where the adapter sees it."""

    @property
    def generators(self) -> NoticesGenerators | None:
        """Who is told of the async generators that are begun in this scope, where an adapter closes them."""
        return None

    @property
    def closed(self) -> bool:
        """Nothing may be begun here any more: the reader has left, or everything was ended."""
        return self.gone is not None or self.ended is not None

    def new_stream(
        self,
        *,
        model: str | None = None,
        provider: str | None = None,
        max_tokens: int | None = None,
        termination: Termination | None = None,
    ) -> RecordedStream:
        """A stream for a provider call outside of any session, not yet started."""
        options: SessionOptions = {
            **self.options,
            "model": model,
            "provider": provider,
            "max_tokens": max_tokens,
            "termination": termination,
        }
        return RecordedStream(**options)

    @property
    def options(self) -> SessionOptions:
        """What streams have in this scope that bring nothing of their own."""
        return {
            "tags": self._tags,
            "ledger": self.ledger,
            "prices": self.prices,
            "observers": self._observers,
        }

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
        """The reader has left: tell every member (G9: each one's own policy decides).

        In the moment of a shutdown it is the server that has closed the connection, and the end is its doing.
        """
        if self.gone is None:
            if self.shutdown is not None and self.shutdown.claims_disconnects:
                self.terminate(Cause.SHUTDOWN, DETAIL)
            self.gone = detail
            for member in tuple(self.members):
                member.disconnected(detail)

    def terminate(self, cause: Cause, detail: str = "") -> None:
        """End every member now, and whoever joins from now on."""
        self.ended = self.ended or (cause, detail)
        for member in tuple(self.members):
            member.terminate(cause, detail)

    def settle(self) -> None:
        """The work under this scope is over: nothing that was still awaited will come."""
        awaited, self.awaited = self.awaited, []
        for settle in awaited:
            settle()


class Caller(Protocol):
    """Who makes provider calls within a stream: a model's run inside of a chain, say."""

    @property
    def over(self) -> bool:
        """It makes no more calls; a context in which it has made some may live on."""

    @property
    def scope(self) -> Scope:
        """Where its calls belong: to a scope whose `session` is told of them."""


_current: ContextVar[Scope | None] = ContextVar("streamguard_scope", default=None)
_caller: ContextVar[Caller | None] = ContextVar("streamguard_caller", default=None)


def current_scope() -> Scope | None:
    """The scope this task or thread works in, or None outside of any."""
    return _current.get()


def current_caller() -> Caller | None:
    """Who makes the provider calls of this task or thread, if somebody has said so and is not over."""
    caller = _caller.get()
    return None if caller is None or caller.over else caller


def scope_of_call() -> Scope | None:
    """The scope to which a provider call made here belongs: that of its caller, if there is one."""
    caller = current_caller()
    return _current.get() if caller is None else caller.scope


def begin_calls(caller: Caller) -> None:
    """What is called in this context from now on is called by `caller`, until it is over."""
    _caller.set(caller)


@contextmanager
def use_scope(scope: Scope) -> Iterator[Scope]:
    """Work inside `scope`; tasks and threads started with a copied context are inside too."""
    token = _current.set(scope)
    try:
        yield scope
    finally:
        _current.reset(token)
        scope.settle()


def enter_scope(scope: Scope) -> Token[Scope | None]:
    """Work inside `scope` until `leave_scope()`: for an adapter that runs a stream's steps in a task of its host's.

    Unlike the end of `use_scope()`, leaving says nothing about the scope's work: there may be a next step.
    """
    return _current.set(scope)


def remain_in(scope: Scope | None) -> None:
    """Work inside `scope` from now on, in this context: for steps whose host does nothing of its own between them."""
    if _current.get() is not scope:
        _current.set(scope)


def leave_scope(token: Token[Scope | None]) -> None:
    """Work where the task worked before; also when a step is finalised in another context than it began in."""
    try:
        _current.reset(token)
    except ValueError:
        pass  # Another context: there is nothing here to be taken back.
