"""The asyncio driver, explored: every schedule within a bound, and mutations that the search must notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamguard_core._interrupt import Interrupt
from streamguard_core._loop_session import LoopSession
from streamguard_core._out import SessionOut
from streamguard_core._pump import Pump
from streamguard_core._push_session import PushSession
from streamguard_core.explore.scenarios import Scenario, scenarios
from streamguard_core.explore.schedules import explore_sessions
from streamguard_core.protocol import StreamProtocol


def test_no_schedule_with_one_detour_breaks_a_guarantee() -> None:
    """Every scenario holds under every schedule with at most one choice that asyncio would not make."""
    report = explore_sessions(scenarios(), deviations=1)
    assert report.failures == []
    assert report.schedules > 10_000


def _without(owner: type, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(owner, name, lambda *_arguments, **_keywords: None)

    return apply


def _deaf_to_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second terminal cause replaces the first."""
    original = StreamProtocol.terminate

    def terminate(
        self: StreamProtocol, cause: Any, detail: str, at_ns: int, **keywords: Any
    ) -> bool:
        changed = original(self, cause, detail, at_ns, **keywords)
        if not changed and self.signal is not None and self.history:
            self.signal = self.history[-1]
        return changed

    monkeypatch.setattr(StreamProtocol, "terminate", terminate)


def _cancels_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer that is cut off inside `out()` is cancelled on top, in the middle of its clean-up."""

    def stop(self: Pump) -> None:
        self._flag.set()
        if self.task is not None:
            self.task.cancel()

    monkeypatch.setattr(Pump, "stop", stop)


MUTATIONS = {
    "cancellations are not taken back": _without(Interrupt, "absorb"),
    "a parked push reader is not woken": _without(SessionOut, "wake_consumer"),
    "freed room wakes no producer": _without(SessionOut, "freed"),
    "the producer is not stopped": _without(PushSession, "_stop_producer"),
    "deadlines are never looked at": _without(LoopSession, "_arm"),
    "a later cause replaces the first": _deaf_to_first,
    "clean-up is interrupted": _cancels_itself,
}


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_search_notices_a_broken_driver(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any of these parts removed, some schedule shows a guarantee that does not hold."""
    MUTATIONS[name](monkeypatch)
    assert _first_failure(), f"nobody noticed: {name}"


def _first_failure() -> bool:
    return any(_fails(scenario) for scenario in scenarios())


def _fails(scenario: Scenario) -> bool:
    return bool(explore_sessions([scenario], deviations=0).failures)
