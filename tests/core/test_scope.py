"""Tests of scopes: what belongs to one request ends with it."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from streamguard_core import (
    Cause,
    Scope,
    Shutdown,
    StreamSession,
    UsageError,
    current_scope,
    use_scope,
)
from streamguard_core.scope import (
    begin_calls,
    current_caller,
    enter_scope,
    leave_scope,
    scope_of_call,
)
from streamguard_core.shutdown import DETAIL
from streamguard_core.testing import hang, scripted_iterator


class Member:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def disconnected(self, detail: str = "") -> None:
        """Note it."""
        self.told.append(f"disconnected {detail}")

    def terminate(self, cause: Cause, detail: str = "") -> None:
        """Note it."""
        self.told.append(f"{cause} {detail}")


def test_every_member_hears_the_disconnect_once() -> None:
    """The first signal is passed on, later ones are not."""
    scope, members = Scope(), [Member(), Member()]
    for member in members:
        scope.add(member)
    scope.disconnected("left")
    scope.disconnected("left again")
    assert [member.told for member in members] == [["disconnected left"]] * 2
    assert scope.gone == "left"


def test_a_disconnect_in_the_moment_of_a_shutdown_is_the_servers() -> None:
    """P21: servers close connections when they go; members are ended for that, and hear of the reader afterwards."""
    scope, member, late = Scope(), Member(), Member()
    scope.shutdown = Shutdown()
    scope.add(member)
    scope.shutdown.cut()
    scope.disconnected("left")
    scope.add(late)
    ended = f"SHUTDOWN {DETAIL}"
    assert member.told == [ended, "disconnected left"]
    assert late.told == [ended]


def test_whoever_joins_after_the_reader_left_is_ended_at_once() -> None:
    """There is no instant at which a provider call could be begun for nobody (pitfall 3)."""
    scope, member = Scope(), Member()
    scope.disconnected("left")
    scope.add(member)
    assert member.told == ["disconnected left"]


def test_a_member_that_has_ended_is_forgotten() -> None:
    """Discarding twice, or a stranger, is nothing."""
    scope, member = Scope(), Member()
    scope.add(member)
    scope.discard(member)
    scope.discard(member)
    scope.disconnected("left")
    assert member.told == []


def test_a_member_may_leave_while_all_are_told() -> None:
    """Ending one may take it, or another, out of the scope."""
    scope = Scope()

    class Leaving(Member):
        def disconnected(self, detail: str = "") -> None:
            super().disconnected(detail)
            scope.discard(self)

    members = [Leaving(), Leaving()]
    for member in members:
        scope.add(member)
    scope.disconnected("left")
    assert [len(member.told) for member in members] == [1, 1]
    assert scope.members == []


def test_everything_can_be_terminated() -> None:
    """With authority, and any cause."""
    scope, member = Scope(), Member()
    scope.add(member)
    scope.terminate(Cause.SHUTDOWN, "deploy")
    assert member.told == ["SHUTDOWN deploy"]


def test_the_scope_is_found_through_the_context() -> None:
    """Nested scopes hide each other and come back."""
    assert current_scope() is None
    outer, inner = Scope(), Scope()
    with use_scope(outer) as entered:
        assert entered is outer is current_scope()
        with use_scope(inner):
            assert current_scope() is inner
        assert current_scope() is outer
    assert current_scope() is None


async def test_tasks_and_threads_of_a_request_are_in_its_scope() -> None:
    """They are started with a copy of the context; other requests are not."""

    async def task() -> Scope | None:
        return current_scope()

    scope = Scope()
    with use_scope(scope):
        inside = asyncio.create_task(task())
        assert await asyncio.to_thread(current_scope) is scope
    assert await inside is scope
    assert await asyncio.create_task(task()) is None


def test_what_is_awaited_is_settled_when_the_work_is_over() -> None:
    """At the end of the `with`, once each."""
    settled: list[str] = []
    with use_scope(Scope()) as scope:
        scope.awaited += [lambda: settled.append("first"), lambda: settled.append("second")]
        assert settled == []
    assert settled == ["first", "second"]
    scope.settle()
    assert len(settled) == 2


def test_a_ledger_that_is_none_is_refused() -> None:
    """A path is no ledger; it is said where it was written."""
    with pytest.raises(UsageError, match="ledger of type str"):
        Scope(ledger="receipts.db")  # type: ignore[arg-type]


async def test_a_session_is_a_member() -> None:
    """A scope ends the sessions of its request."""
    scope, session = Scope(), StreamSession(scripted_iterator(hang()))
    scope.session = session
    scope.add(session)
    session.start()
    scope.disconnected("the tab was closed")
    assert (await session.receipt()).cause is Cause.CLIENT_DISCONNECT
    assert scope.session is session


def test_a_step_is_inside_and_the_next_step_is_not_settled_for() -> None:
    """Entering and leaving step by step says nothing about the scope's work, which goes on."""
    scope, settled = Scope(), list[str]()
    scope.awaited.append(lambda: settled.append("over"))
    outer = Scope()
    with use_scope(outer):
        for _ in range(2):
            token = enter_scope(scope)
            assert current_scope() is scope
            leave_scope(token)
            assert current_scope() is outer
    assert settled == []


def test_a_step_that_is_finalised_in_another_context_disturbs_nothing() -> None:
    """The collector may close a generator in any context: what holds there goes on holding."""
    outer = Scope()
    token = contextvars.copy_context().run(enter_scope, Scope())
    with use_scope(outer):
        leave_scope(token)
        assert current_scope() is outer


def test_a_call_belongs_to_its_caller() -> None:
    """A call belongs to the run that makes it, as long as that is not over; then to the context's scope."""

    class Run:
        over = False
        scope = Scope()

    def calls() -> None:
        around, run = Scope(), Run()
        with use_scope(around):
            assert scope_of_call() is around
            begin_calls(run)
            assert current_caller() is run
            assert scope_of_call() is run.scope
            run.over = True
            assert current_caller() is None
            assert scope_of_call() is around
            assert around.generators is None
        assert scope_of_call() is None

    contextvars.copy_context().run(calls)
