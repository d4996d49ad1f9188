"""Explores the asyncio driver: runs `StreamSession` under every schedule with at most `deviations` detours.

A schedule is a list of choices: which of the ready callbacks runs next. Choice 0 is what asyncio would do
(first in, first out). All schedules with at most `deviations` other choices are executed, each from the
start on a fresh loop with virtual time, and each end is checked against the guarantees.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TextIO

from streamguard_core.causes import Cause
from streamguard_core.explore.scenarios import Run, Scenario, scenarios
from streamguard_core.explore.schedule_loop import Deadlock, ScheduleLoop
from streamguard_core.policies import Rule
from streamguard_core.receipt import CloseState

MOST_PRINTED: Final = 20


@dataclass(frozen=True)
class Failure:
    """A guarantee that did not hold, with the schedule that shows it."""

    scenario: str
    guarantee: str
    text: str
    schedule: tuple[int, ...]


@dataclass
class SessionReport:
    """What a search found."""

    scenarios: int = 0
    schedules: int = 0
    longest: int = 0
    """The most choices in one schedule."""
    failures: list[Failure] = field(default_factory=list)


class _Script:
    """Plays a prefix of choices, then choice 0; records how wide each choice was."""

    def __init__(self, prefix: tuple[int, ...]) -> None:
        self._prefix = prefix
        self.taken: list[int] = []
        self.widths: list[int] = []

    def __call__(self, width: int) -> int:
        at = len(self.taken)
        choice = self._prefix[at] if at < len(self._prefix) else 0
        self.taken.append(min(choice, width - 1))
        self.widths.append(width)
        return self.taken[-1]


Progress = Callable[[SessionReport, Scenario], object]
"""Told before each scenario what was found so far."""


def explore_sessions(
    chosen: Iterable[Scenario], deviations: int = 2, *, progress: Progress | None = None
) -> SessionReport:
    """Execute every scenario under every schedule with at most `deviations` choices other than 0."""
    report = SessionReport()
    for scenario in chosen:
        if progress is not None:
            progress(report, scenario)
        report.scenarios += 1
        _explore(scenario, deviations, report)
    return report


def _explore(scenario: Scenario, deviations: int, report: SessionReport) -> None:
    """Depth first: after each execution, branch at every choice behind its prefix."""
    work: list[tuple[tuple[int, ...], int]] = [((), deviations)]
    while work:
        prefix, left = work.pop()
        script = _Script(prefix)
        problems = execute(scenario, script)
        report.schedules += 1
        report.longest = max(report.longest, len(script.taken))
        report.failures += [
            Failure(str(scenario), guarantee, text, tuple(script.taken))
            for guarantee, text in problems
        ]
        if left:
            for at in range(len(prefix), len(script.taken)):
                done = script.taken[:at]
                work += [((*done, choice), left - 1) for choice in range(1, script.widths[at])]


def execute(scenario: Scenario, script: _Script | None = None) -> list[tuple[str, str]]:
    """Run one schedule; returns what did not hold, as (guarantee, text)."""
    loop, run = ScheduleLoop(script or _Script(())), Run()
    try:
        loop.run_until_complete(scenario.play(run))
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=10))
            left = [task for task in left if not task.done()]
    except Deadlock as error:
        return [("G7", f"deadlock: {error}; {run.session!r}")]
    except Exception as error:
        return [("error", f"{type(error).__name__}: {error}")]
    finally:
        loop.close()
    problems = [("G10", f"a task was left behind: {task.get_name()}") for task in left]
    problems += [("error", problem) for problem in loop.problems]
    return problems + list(check(scenario, run))


def check(scenario: Scenario, run: Run) -> Iterable[tuple[str, str]]:
    """The guarantees, as far as they show from outside."""
    if len(run.ledger.receipts) != 1:
        yield "G11", f"{len(run.ledger.receipts)} receipts"
        return
    receipt = run.ledger.receipts[0]
    if len(run.at_cutoff) != 1:
        yield "G1", f"{len(run.at_cutoff)} cutoffs"
    elif run.at_cutoff[0].committed != receipt.committed:
        yield (
            "G2",
            f"committed moved from {run.at_cutoff[0].committed} to {receipt.committed} after the cutoff",
        )
    yield from _check_counts(run)
    if run.delivered != [str(index) for index in range(len(run.delivered))]:
        yield "order", f"delivered {run.delivered}"
    if len(run.delivered) > receipt.committed:
        yield "G2", f"{len(run.delivered)} chunks were delivered, {receipt.committed} committed"
    if run.eos and len(run.delivered) != receipt.committed:
        yield "G6", f"EOS after {len(run.delivered)} of {receipt.committed} committed chunks"
    yield from _check_producer(run)
    if run.cancelling:
        yield "hygiene", f"{run.cancelling} cancellations were left on the reader's task"
    yield from _check_cause(scenario, run)


def _check_counts(run: Run) -> Iterable[tuple[str, str]]:
    receipt = run.ledger.receipts[0]
    if not receipt.produced >= receipt.committed >= receipt.consumed:
        yield "G3", f"{receipt.produced} >= {receipt.committed} >= {receipt.consumed} does not hold"
    if receipt.produced - receipt.committed > 3 or receipt.committed - receipt.consumed > 2:
        yield (
            "G4",
            f"too much was buffered: {receipt.produced}, {receipt.committed}, {receipt.consumed}",
        )


def _check_producer(run: Run) -> Iterable[tuple[str, str]]:
    """G10: told to end, every producer here ends at once, and its clean-up runs to its end."""
    receipt = run.ledger.receipts[0]
    if run.closed != run.started:
        yield "G10", f"the producer was started {run.started} times and ended {run.closed} times"
    if receipt.close is CloseState.UNCONFIRMED:
        yield "G10", "a producer that ends when it is told to was given up on"
    called, confirmed = receipt.instants.close_called_ns, receipt.instants.close_confirmed_ns
    if called is not None and confirmed is not None and confirmed - called > 1e8:
        yield "G10", f"the producer ended {(confirmed - called) / 1e9:g} s after it was told to"


def _check_cause(scenario: Scenario, run: Run) -> Iterable[tuple[str, str]]:
    """G8 and G14: the cause is something that happened, and the first signal with authority if any."""
    cause = run.ledger.receipts[0].cause
    possible = {Cause.COMPLETED, *run.signals}
    if scenario.producer == "pull-fails":
        possible.add(Cause.PRODUCER_ERROR)
    if scenario.reader.endswith("leaves"):
        possible.add(Cause.CLIENT_DISCONNECT)
    if scenario.shape == "timed":
        possible |= {Cause.TIMEOUT_IDLE, Cause.TIMEOUT_TOTAL}
    if cause not in possible:
        yield "G14", f"{cause}, but only {sorted(map(str, possible))} happened"
    if (
        not run.signals
        and not scenario.reader.endswith("leaves")
        and cause is not _undisturbed(scenario)
    ):
        yield "G14", f"{cause}, but nobody interfered: {_undisturbed(scenario)} was to come"
    order = [signal for signal in run.signals if _has_authority(signal, scenario)]
    by_reader = scenario.reader.endswith("leaves") and cause is Cause.CLIENT_DISCONNECT
    if cause in order[1:] and cause != order[0] and not by_reader:
        yield "G8", f"{cause} won, but {order[0]} came first"


def _undisturbed(scenario: Scenario) -> Cause:
    """How the stream ends when it is left alone: the pulled producer falls silent for longer than `idle`."""
    if scenario.producer == "pull-fails":
        return Cause.PRODUCER_ERROR
    silent = scenario.producer == "pull" and scenario.shape == "timed"
    return Cause.TIMEOUT_IDLE if silent else Cause.COMPLETED


def _has_authority(cause: Cause, scenario: Scenario) -> bool:
    """Under grace a disconnect is only a wish."""
    return cause is not Cause.CLIENT_DISCONNECT or scenario.policy.rule is not Rule.GRACE


def main(arguments: Sequence[str] | None = None) -> int:
    """Explore, and print what was found.

    Returns:
        0 without a failure, 1 with any. Bad arguments exit with 2.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    chosen = [scenario for scenario in scenarios() if options.only in str(scenario)]
    if not chosen:
        parser.error(f"no scenario has {options.only!r} in its name")
    with _quiet():
        report = explore_sessions(chosen, options.deviations, progress=_progress(sys.stderr))
    print(
        f"{report.scenarios} scenarios, {report.schedules} schedules,"
        f" up to {report.longest} choices each, {len(report.failures)} failures"
    )
    for failure in report.failures[:MOST_PRINTED]:
        print(f"{failure.guarantee}: {failure.scenario}: {failure.text} {failure.schedule}")
    return 1 if report.failures else 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Producers fail on purpose here, thousands of times: nobody wants to read of it."""
    logger = logging.getLogger("streamguard")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _progress(stream: TextIO) -> Progress | None:
    """Shown to somebody who waits, on one line; nobody reads it in a log."""
    if not stream.isatty():
        return None

    def show(report: SessionReport, scenario: Scenario) -> None:
        done = f"{report.scenarios:>6} scenarios, {report.schedules:,} schedules"
        stream.write(f"\r{done}, {len(report.failures)} failures; {scenario} \x1b[K")
        stream.flush()

    return show


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m streamguard_core.explore.schedules",
        description="Run sessions under every schedule with a few choices that asyncio would not"
        " make, and check the guarantees. Exits with 1 on any failure.",
    )
    parser.add_argument(
        "--deviations",
        type=int,
        default=2,
        choices=range(4),
        metavar="N",
        help="choices that asyncio would not make, 0 to 3 (default %(default)s)",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="TEXT",
        help="only scenarios with this in their name, such as push/leaves or drain/cancel",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
