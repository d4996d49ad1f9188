"""The schedule explorer itself: each check finds a run that breaks it, the loop does what it is told, the command."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any

import msgspec
import pytest

from streamguard_core import Cause
from streamguard_core._push_session import PushSession
from streamguard_core.explore.scenarios import Run, Scenario
from streamguard_core.explore.schedule_loop import Deadlock, ScheduleLoop
from streamguard_core.explore.schedules import check, execute, main
from streamguard_core.receipt import CloseState

CANCELLED = Scenario("push", "all", "plain", ("cancel",))
TWICE = Scenario("push", "all", "plain", ("cancel", "shutdown"))
ALONE = Scenario("push", "all", "plain", ())


def first(width: int) -> int:
    """What asyncio would run next."""
    return 0


def last(width: int) -> int:
    """What asyncio would run last."""
    return width - 1


def played(scenario: Scenario) -> Run:
    """A scenario, run as asyncio would run it."""
    loop, run = ScheduleLoop(first), Run()
    try:
        loop.run_until_complete(scenario.play(run))
    finally:
        loop.close()
    return run


# -- the checks -----------------------------------------------------------------------------------------


def _receipt(**changes: Any) -> Callable[[Run], None]:
    """The receipt says something else."""

    def spoil(run: Run) -> None:
        receipts = run.ledger.receipts
        receipts[0] = msgspec.structs.replace(receipts[0], **changes)

    return spoil


def _counts(produced: int, committed: int, consumed: int) -> Callable[[Run], None]:
    """Other counters, on the receipt and at the cutoff."""

    def spoil(run: Run) -> None:
        _receipt(produced=produced, committed=committed, consumed=consumed)(run)
        run.at_cutoff[0] = msgspec.structs.replace(run.at_cutoff[0], committed=committed)
        run.delivered, run.eos = run.delivered[:committed], 0

    return spoil


def _set(**changes: Any) -> Callable[[Run], None]:
    """Something else was seen from outside."""

    def spoil(run: Run) -> None:
        for name, value in changes.items():
            setattr(run, name, value)

    return spoil


def _ends_slowly(run: Run) -> None:
    instants = run.ledger.receipts[0].instants
    slow = msgspec.structs.replace(instants, close_called_ns=0, close_confirmed_ns=2 * 10**8)
    _receipt(instants=slow)(run)


def _moves_on(run: Run) -> None:
    """One chunk less was committed at the cutoff."""
    was = run.at_cutoff[0]
    run.at_cutoff[0] = msgspec.structs.replace(was, committed=was.committed - 1)


SPOILT: list[tuple[Scenario, str, str, Callable[[Run], None]]] = [
    (CANCELLED, "G11", "0 receipts", lambda run: run.ledger.receipts.clear()),
    (CANCELLED, "G11", "2 receipts", lambda run: run.ledger.receipts.extend(run.ledger.receipts)),
    (CANCELLED, "G1", "0 cutoffs", lambda run: run.at_cutoff.clear()),
    (CANCELLED, "G1", "2 cutoffs", lambda run: run.at_cutoff.extend(run.at_cutoff)),
    (CANCELLED, "G2", "committed moved from 4 to 5 after the cutoff", _moves_on),
    (CANCELLED, "G3", "4 >= 5 >= 4 does not hold", _counts(4, 5, 4)),
    (CANCELLED, "G3", "5 >= 4 >= 5 does not hold", _counts(5, 4, 5)),
    (CANCELLED, "G4", "too much was buffered: 8, 4, 4", _counts(8, 4, 4)),
    (CANCELLED, "G4", "too much was buffered: 5, 5, 2", _counts(5, 5, 2)),
    (CANCELLED, "order", "delivered ['0', '2', '1', '3', '4']", _set(delivered=list("02134"))),
    (CANCELLED, "G2", "6 chunks were delivered, 5 committed", _set(delivered=[*"012345"], eos=0)),
    (CANCELLED, "G6", "EOS after 4 of 5 committed chunks", _set(delivered=[*"0123"])),
    (CANCELLED, "G10", "the producer was started 1 times and ended 0 times", _set(closed=0)),
    (
        CANCELLED,
        "G10",
        "a producer that ends when it is told to was given up on",
        _receipt(close=CloseState.UNCONFIRMED),
    ),
    (CANCELLED, "G10", "the producer ended 0.2 s after it was told to", _ends_slowly),
    (CANCELLED, "hygiene", "2 cancellations were left on the reader's task", _set(cancelling=2)),
    (
        CANCELLED,
        "G14",
        "TIMEOUT_IDLE, but only ['COMPLETED', 'USER_CANCEL'] happened",
        _receipt(cause=Cause.TIMEOUT_IDLE),
    ),
    (
        ALONE,
        "G14",
        "PRODUCER_ERROR, but nobody interfered: COMPLETED was to come",
        _receipt(cause=Cause.PRODUCER_ERROR),
    ),
    (TWICE, "G8", "SHUTDOWN won, but USER_CANCEL came first", _receipt(cause=Cause.SHUTDOWN)),
]


@pytest.mark.parametrize(("scenario", "guarantee", "text", "spoil"), SPOILT)
def test_a_run_that_breaks_a_guarantee_is_found(
    scenario: Scenario, guarantee: str, text: str, spoil: Callable[[Run], None]
) -> None:
    """A run that holds breaks no guarantee; with one fact spoilt it breaks the one that the fact is about."""
    run = played(scenario)
    assert list(check(scenario, run)) == []
    spoil(run)
    found = list(check(scenario, run))
    assert (guarantee, text) in found
    assert {name for name, _ in found} == {guarantee}


Program = Callable[[], Coroutine[Any, Any, None]]


class Untidy(Scenario):
    """A scenario after which the program goes on."""

    afterwards: Program

    async def play(self, run: Run) -> None:
        await super().play(run)
        await self.afterwards()


def _executed(afterwards: Program) -> list[tuple[str, str]]:
    scenario = Untidy("push", "all", "plain", ())
    object.__setattr__(scenario, "afterwards", afterwards)
    return execute(scenario)


async def _tidy() -> None:
    """Leaves a task that ends by itself."""
    asyncio.create_task(asyncio.sleep(5), name="a moment")  # noqa: RUF006 - it is left on purpose


async def _leaves_a_task() -> None:
    asyncio.create_task(asyncio.sleep(1_000), name="forgotten")  # noqa: RUF006 - it is left on purpose


async def _waits_for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def _raises() -> None:
    raise ValueError("the program's words")


async def _raises_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(list[int]().pop)
    await asyncio.sleep(0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("afterwards", "guarantee", "text"),
    [
        (_leaves_a_task, "G10", "a task was left behind: forgotten"),
        (_waits_for_ever, "G7", "deadlock: nothing is left to wait for"),
        (_raises, "error", "ValueError: the program's words"),
        (_raises_in_a_callback, "error", "(IndexError)"),
    ],
)
def test_a_program_that_does_not_end_well_is_found(
    afterwards: Program, guarantee: str, text: str
) -> None:
    """Tasks that are left, deadlocks, and what a program or a callback raises, are findings."""
    [(name, said)] = _executed(afterwards)
    assert name == guarantee
    assert text in said


def test_a_task_that_ends_by_itself_is_not_left_behind() -> None:
    """What is still running at the end has a moment to end."""
    assert _executed(_tidy) == []


# -- the loop -------------------------------------------------------------------------------------------


def _no_choice(width: int) -> int:
    """Must not be asked."""
    pytest.fail(f"a choice between {width} was asked for")


def _order(chooser: Callable[[int], int], cancelled: str) -> str:
    """In which order `a`, `b`, `c` and `d` run, without what is cancelled."""
    ran: list[str] = []
    with closing(ScheduleLoop(chooser)) as loop:
        handles = {name: loop.call_soon(ran.append, name) for name in "abcd"}
        for name in cancelled:
            handles[name].cancel()
        loop.call_later(1, loop.stop)
        loop.run_forever()
        assert loop.problems == []
    return "".join(ran)


def test_the_chooser_decides_what_runs_next() -> None:
    """Whatever is ready can be first, and what was cancelled never runs, wherever it stands."""
    assert _order(first, "") == "abcd"
    assert _order(last, "") == "dcba"
    assert _order(first, "ac") == "bd"
    assert _order(last, "ac") == "db"


def test_what_was_cancelled_first_is_no_choice() -> None:
    """Only where something else is ready is there a choice to explore."""
    with closing(ScheduleLoop(_no_choice)) as loop:
        loop.call_soon(loop.stop).cancel()
        loop.call_soon(loop.stop)
        loop.run_forever()


def test_time_jumps_to_the_next_timer_that_is_not_cancelled() -> None:
    """A timer that was cancelled takes no time, and is not waited for."""
    with closing(ScheduleLoop(first)) as loop:
        loop.call_later(2, loop.stop)
        loop.call_later(1, loop.stop).cancel()
        loop.call_later(3, loop.stop).cancel()
        loop.run_forever()
        assert loop.time() == 2
        with pytest.raises(Deadlock, match="nothing is left to wait for at 2 s"):
            loop.run_forever()


def test_a_loop_that_is_stopped_waits_for_nothing() -> None:
    """Stopped with nothing to do, it returns; not stopped, that is a deadlock."""
    with closing(ScheduleLoop(first)) as loop:
        loop.stop()
        loop.run_forever()
        with pytest.raises(Deadlock, match="nothing is left to wait for at 0 s"):
            loop.run_forever()


# -- the command ----------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """Standard error, and somebody looking at it."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.mark.parametrize("name", ["pull/leaves/plain/cancel", "pull/batches-leaves/plain/cancel"])
def test_the_command_explores_what_is_asked_for(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With two detours a reader that means to leave is also ended before it does; nothing is broken."""
    schedules: list[int] = []
    for deviations in (0, 2):
        assert main(["--only", name, "--deviations", str(deviations)]) == 0
        words = capsys.readouterr().out.split()
        # The name with two signals begins with the name that has the first.
        assert words[:2] == ["2", "scenarios,"]
        assert words[-2:] == ["0", "failures"]
        schedules.append(int(words[2]))
    assert schedules[0] == 2
    assert schedules[1] > 100


def test_the_command_says_how_far_it_is_and_nothing_of_producers(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A terminal shows each scenario; failures on purpose are not logged."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    level = logging.getLogger("streamguard").level
    assert main(["--only", "pull-fails/all/plain/cancel", "--deviations", "0"]) == 0
    said = terminal.getvalue()
    assert "0 scenarios, 0 schedules, 0 failures; pull-fails/all/plain/cancel" in said
    assert said.count("\r") == int(capsys.readouterr().out.split()[0])
    assert caplog.records == []
    assert logging.getLogger("streamguard").level == level


def test_the_command_fails_on_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A driver that never stops its producer is found: exit code 1, guarantee, scenario and schedule."""
    monkeypatch.setattr(PushSession, "_stop_producer", lambda self: None)
    assert main(["--only", "pull/all/drain/disconnect", "--deviations", "0"]) == 1
    output = capsys.readouterr().out
    assert "G10: pull/all/drain/disconnect: the producer ended 0.8 s after" in output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--only", "nothing/of/the/kind"], "no scenario has 'nothing/of/the/kind' in its name"),
        (["--deviations", "4"], "invalid choice: 4"),
        (["--deviations", "many"], "invalid int value: 'many'"),
    ],
)
def test_bad_arguments_exit_with_2(
    refuses: Callable[..., None], arguments: list[str], text: str
) -> None:
    """What cannot be explored is said: a run of no scenarios would prove nothing."""
    refuses(main, arguments, text)
