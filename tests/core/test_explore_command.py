"""The command `python -m streamguard_core.explore`, and the report that it prints."""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from streamguard_core import Rule
from streamguard_core.explore import Driven, explore
from streamguard_core.explore.__main__ import main
from streamguard_core.explore.report import as_data, as_text

from .broken import TIGHT, TINY, Generous


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
    assert (report["complete"], report["ok"]) == (True, True)
    assert (done.returncode, done.stderr) == (0, "")


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


def test_the_command_prints_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    """States, transitions, deepest path and violations, for the policy and the limits asked for."""
    assert main(["--tokens", "1", "--limits", "1,3", "--policy", "drain"]) == 0
    text = capsys.readouterr().out
    assert "max_inflight_commits=3" in text
    assert "drain(5s,max_tokens=2,max_bytes=1)" in text
    assert "cancel" not in text
    assert "cut short" not in text
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


@pytest.mark.parametrize("style", [[], ["--json"]])
def test_the_command_fails_when_it_was_cut_short(
    style: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a violation and without an end, nothing is proved: exit code 1, and the report says why."""
    assert main(["--tokens", "1", "--states", "50", "--policy", "cancel", *style]) == 1
    output = capsys.readouterr().out
    if style:
        report = json.loads(output)
        assert (report["ok"], report["complete"], report["violations"]) == (False, False, [])
        assert report["bound"]["states"] == report["states"] == 50
        assert report["scenarios"][0]["complete"] is False
    else:
        assert "at most 50 states of a policy" in output
        assert "cancel" in next(line for line in output.splitlines() if line.endswith("cut short"))
        assert "0 violations, cut short: what was not visited is not proved" in output


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
        (["--states", "0"], "'0' was given; it is a whole number of at least 1"),
        (["--states", "1e6"], "'1e6' was given; it is a whole number of at least 1"),
        (["--limits", "2"], "'2' was given; it is two whole numbers"),
        (["--limits", "2,x"], "'2,x' was given; it is two whole numbers"),
        (["--limits", "2,0"], "max_inflight_commits=0 was given"),
        (["--policy", "hope"], "invalid choice: 'hope'"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_bad_arguments_exit_with_2(
    refuses: Callable[..., None], arguments: list[str], text: str
) -> None:
    """What cannot be explored is said, with exit code 2, before anything is explored."""
    refuses(main, arguments, text)


def test_help_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """--help names every option."""
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    for option in (
        "--tokens N",
        "--limits L,M",
        "--states N",
        "--policy {cancel,grace,drain,all}",
        "--json",
    ):
        assert option in text
