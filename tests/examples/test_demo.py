"""What the demo says when it cannot measure, and that it leaves nothing behind when it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streamguard_testing import Fault, run_engine

SAFE = "PYTHONSAFEPATH"
"""Where it is set, a script does not find the files beside it."""
RUN = Path(__file__).parents[2] / "example_projects" / "demo" / "run.py"


def _start(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the demo in a process group of its own, with a folder of its own for temporary files."""
    return subprocess.Popen(
        [sys.executable, "-u", str(RUN), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name != SAFE}
        | {"TMPDIR": str(temporary)},
    )


def _refused(temporary: Path, *arguments: str) -> str:
    """What it says when it ends with 2: a line of its own, and nothing left on the disk."""
    with _start(temporary, *arguments) as demo:
        _, said = demo.communicate(timeout=60)
    assert demo.returncode == 2
    assert "Traceback" not in said
    assert list(temporary.iterdir()) == []
    return said


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1", "was asked for one token of the model 'm' and did not answer"),
        ("https://127.0.0.1:1", "is no address that the demo can watch; give http://HOST:PORT"),
        ("localhost", "is no address that the demo can watch"),
        ("http://127.0.0.1:1/elsewhere", "is no address that the demo can watch"),
    ],
)
def test_no_engine_there(tmp_path: Path, url: str, words: str) -> None:
    """An address at which nothing answers is found out before anything is started."""
    assert words in _refused(tmp_path, "--engine", url, "--model", "m")


def test_an_engine_that_refuses(tmp_path: Path) -> None:
    """A model that the engine does not have is said with the engine's own words."""
    with run_engine(fault=Fault(status=404, error_message="no such model here")) as engine:
        said = _refused(tmp_path, "--engine", engine.url, "--model", "m")
    assert "answered with status 404" in said
    assert "no such model here" in said
    assert "check ENGINE" in said


def test_arguments_that_make_no_sense(tmp_path: Path) -> None:
    """A ledger that cannot be written, and answers too short to leave in their middle."""
    (tmp_path / "file").write_text("")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    ledger = str(tmp_path / "file")
    assert "cannot open a ledger for writing" in _refused(temporary, "--ledger", ledger)
    assert "--max-tokens must be 100 or more" in _refused(temporary, "--max-tokens", "-1")


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are POSIX")
def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C in the middle: one line, exit 130, no process and no file is left."""
    with run_engine(interval=0.05) as engine, _start(tmp_path, "--engine", engine.url) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "leave before the first token" in line:
                break
        os.killpg(demo.pid, signal.SIGINT)
        _, said = demo.communicate(timeout=60)
        with pytest.raises(ProcessLookupError):
            os.killpg(demo.pid, 0)
    assert (demo.returncode, said) == (130, "demo: interrupted; nothing is left running\n")
    assert list(tmp_path.iterdir()) == []
