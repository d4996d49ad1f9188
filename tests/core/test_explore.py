"""The explorer: it visits what it says, it finds nothing in the protocol, and it finds what is broken."""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import sys

import pytest

from streamguard_core import Cause, Limits, ProducerState, Rule, StreamProtocol, Usage
from streamguard_core.explore import Bound, Driven, explore
from streamguard_core.explore.__main__ import main
from streamguard_core.explore.checks import ACTOR, GUARANTEES
from streamguard_core.explore.exploration import POLICIES
from streamguard_core.explore.report import as_data, as_text
from streamguard_core.explore.world import FIXED, SHADOW, Scenario, World

TINY = Bound(tokens=1, signals=1, sizes=(1,))
ROOMY = Limits(speculative_buffer_limit=1, max_inflight_commits=2, max_buffer_bytes=2)
TIGHT = Limits(speculative_buffer_limit=1, max_inflight_commits=1, max_buffer_bytes=1)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, without measuring its coverage: it would take minutes."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-m", "streamguard_core.explore", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=plain, check=False)


@pytest.mark.slow
def test_the_protocol_holds_at_the_default_bound() -> None:
    """More than 100,000 distinct states, no violation, and no progress in a log."""
    done = run("--json")
    report = json.loads(done.stdout)
    assert report["states"] >= 100_000
    assert report["violations"] == []
    assert report["ok"] is True
    assert (done.returncode, done.stderr) == (0, "")


def test_every_policy_is_explored() -> None:
    """Each rule has its scenario, each with states of its own, and the totals are their sums."""
    found = explore(bound=TINY, limits=TIGHT)
    assert [each.scenario for each in found.scenarios] == [str(POLICIES[rule]) for rule in Rule]
    assert found.violations == []
    assert found.states == sum(each.states for each in found.scenarios)
    assert found.transitions > found.states
    assert all(each.states > 1_000 for each in found.scenarios)
    assert len(found.deepest) == max(len(each.deepest) for each in found.scenarios)


def test_more_tokens_reach_further() -> None:
    """A larger bound visits everything that a smaller one does, and more."""
    one, two = (
        explore((Rule.CANCEL,), Bound(tokens, signals=1, sizes=(1,)), TIGHT) for tokens in (1, 2)
    )
    assert two.states > one.states
    assert len(two.deepest) > len(one.deepest)


def test_every_input_happens() -> None:
    """No input is there for nothing: each leads somewhere, but for a relay of what does not fit."""
    found = explore(bound=Bound(tokens=2, signals=1, sizes=(1,)), limits=ROOMY)
    moved = {name for each in found.scenarios for name, count in each.moved.items() if count}
    every = set(found.scenarios[0].moved)
    assert every - moved == {"relay(3)"}


def test_every_guarantee_can_be_named() -> None:
    """What is checked is what is promised of the protocol, and every cause that can come has its actor."""
    assert {"G1", "G2", "G3", "G4", "G5", "G6", "G7", "G8", "G13", "G14"} <= set(GUARANTEES)
    for cause, (category, party) in ACTOR.items():
        assert (cause.category, cause.party) == (category, party)


def test_every_attribute_of_the_protocol_is_explored() -> None:
    """What is held fixed exists, and everything else is part of a state."""
    world = World(Scenario(POLICIES[Rule.CANCEL], TIGHT), Driven())
    slots = {name for base in StreamProtocol.__mro__ for name in getattr(base, "__slots__", ())}
    assert slots >= FIXED
    assert set(world.names) == slots - FIXED - {"signal", "history", "usage"}


@pytest.mark.parametrize("name", [*SHADOW, "ended", "cut_cause", "signal", "history", "usage"])
def test_a_state_that_differs_is_another_state(name: str) -> None:
    """Each fact makes a state a different one, and thawing brings the first one back."""
    world = World(Scenario(POLICIES[Rule.CANCEL], TIGHT), Driven())
    world.protocol.reading()
    key, frozen = world.key(), world.freeze()
    other = World(Scenario(POLICIES[Rule.CANCEL], TIGHT), Driven())
    other.protocol.terminate(Cause.USER_CANCEL, "", 0)
    other.protocol.provider_finished("stop", Usage.reported_by_provider(output=1))
    owner, value = (
        (world.protocol, getattr(other.protocol, name))
        if hasattr(other.protocol, name)
        else (world, "x")
    )
    setattr(owner, name, value)
    assert world.key() != key
    world.thaw(frozen)
    assert world.key() == key


# -- what is broken is found ----------------------------------------------------------------------------


class Generous(StreamProtocol):
    """Commits without asking whether the stream is cut off, or whether there is room."""

    __slots__ = ()

    def commit(self, at_ns: int = 0) -> int:
        moved = self.cleared - self.committed
        self.committed = self.cleared
        if moved and self.producer is ProducerState.FINISHED:
            self.terminate(Cause.COMPLETED, "", at_ns)
        return moved


class Timeless(StreamProtocol):
    """Waits for ever for a producer that was told to end."""

    __slots__ = ()

    def give_up(self, at_ns: int) -> None:
        self.until_ns = at_ns + 1


class Raising(StreamProtocol):
    """Cannot be left."""

    __slots__ = ()

    def disconnected(self, detail: str, at_ns: int, unaccepted: int = 0) -> None:
        raise KeyError(detail)


class RaisingWhenAsked(StreamProtocol):
    """Cannot be asked for EOS."""

    __slots__ = ()

    def give_up(self, at_ns: int) -> None:
        raise KeyError(at_ns)


def test_a_commit_after_the_cutoff_is_found() -> None:
    """A broken protocol is found, with the guarantees by name and a shortest path that shows it."""
    bound = Bound(tokens=2, signals=1, sizes=(0,))
    found = explore((Rule.CANCEL,), bound, TIGHT, Driven(Generous))
    shortest = {violation.guarantee: violation for violation in reversed(found.violations)}
    assert {"G2", "G4"} <= set(shortest)
    path = shortest["G2"].path
    assert path[0] == "offer(0)"
    assert path[-1] == "commit"
    assert len(path) == 4
    assert sorted(found.violations, key=lambda each: len(each.path)) == found.violations


def test_a_wait_without_end_is_found() -> None:
    """A stream that time alone does not seal is found (G10)."""
    found = explore((Rule.CANCEL,), TINY, TIGHT, Driven(Timeless))
    assert "time alone never brings the seal" in {each.text for each in found.violations}


@pytest.mark.parametrize("protocol", [Raising, RaisingWhenAsked])
def test_an_exception_is_found(protocol: type[StreamProtocol]) -> None:
    """A protocol that raises instead of deciding is a finding, not a crash of the explorer."""
    found = explore((Rule.CANCEL,), TINY, TIGHT, Driven(protocol), stop_at_first=True)
    assert [each.guarantee for each in found.violations] == ["G11"]
    assert "KeyError" in found.violations[0].text


def test_stopping_at_the_first_breach_stops() -> None:
    """With `stop_at_first` no further state, and no further policy, is visited."""
    broken = Driven(Generous)
    everything = explore(bound=TINY, limits=TIGHT, driven=broken)
    first = explore(bound=TINY, limits=TIGHT, driven=broken, stop_at_first=True)
    assert len(first.scenarios) == 1
    assert first.states < everything.scenarios[0].states
    assert first.violations[0].path == everything.violations[0].path


def test_the_report_shows_what_was_found() -> None:
    """The text names guarantee, breach and path; the data has all of it."""
    found = explore((Rule.CANCEL,), TINY, TIGHT, Driven(Generous), stop_at_first=True)
    violation = found.violations[0]
    text, data = as_text(found), as_data(found)
    assert f"{violation.guarantee} is broken" in text
    assert f"1. {violation.path[0]}" in text
    assert f"violations of {violation.guarantee}" in text.splitlines()[-1]
    assert data["violations"][0]["path"] == list(violation.path)
    assert data["ok"] is False
    assert json.loads(json.dumps(data)) == data


# -- the command ----------------------------------------------------------------------------------------


def test_the_command_prints_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    """States, transitions, deepest path and violations, for the policy and the limits asked for."""
    assert main(["--tokens", "1", "--limits", "1,3", "--policy", "drain"]) == 0
    text = capsys.readouterr().out
    assert "max_inflight_commits=3" in text
    assert "drain(5s,max_bytes=1)" in text
    assert "cancel" not in text
    for word in ("states", "transitions", "deepest path", "0 violations"):
        assert word in text.splitlines()[-1]


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json the output is one object, and nothing else."""
    assert main(["--tokens", "1", "--limits", "1,1", "--policy", "cancel", "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["bound"]["tokens"] == 1
    assert report["limits"]["speculative_buffer_limit"] == 1
    assert (report["violations"], captured.err) == ([], "")


def test_the_command_fails_on_a_violation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1 when anything is broken."""
    broken = functools.partial(explore, driven=Driven(Generous), stop_at_first=True)
    monkeypatch.setattr("streamguard_core.explore.__main__.explore", broken)
    assert main(["--tokens", "1", "--limits", "1,1", "--policy", "cancel"]) == 1
    assert "G2 is broken" in capsys.readouterr().out


class Terminal(io.StringIO):
    """Somebody who waits."""

    def isatty(self) -> bool:
        return True


def test_the_command_shows_progress_to_somebody_who_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal, progress is shown on stderr; the report on stdout is what it always is."""
    monkeypatch.setattr("streamguard_core.explore.search.EVERY", 100)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    main(["--tokens", "1", "--limits", "1,1", "--policy", "cancel"])
    assert "states of this policy" in terminal.getvalue()
    assert "to expand" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--tokens", "0"], "'0' was given; it is a whole number of at least 1"),
        (["--tokens", "-3"], "'-3' was given; it is a whole number of at least 1"),
        (["--tokens", "many"], "'many' was given; it is a whole number of at least 1"),
        (["--limits", "2"], "'2' was given; it is two whole numbers"),
        (["--limits", "2,x"], "'2,x' was given; it is two whole numbers"),
        (["--limits", "2,0"], "max_inflight_commits=0 was given"),
        (["--policy", "hope"], "invalid choice: 'hope'"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_bad_arguments_exit_with_2(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be explored is said, with exit code 2, before anything is explored."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    captured = capsys.readouterr()
    assert (left.value.code, captured.out) == (2, "")
    assert text in captured.err


def test_help_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """--help names every option."""
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    for option in ("--tokens N", "--limits L,M", "--policy {cancel,grace,drain,all}", "--json"):
        assert option in text
