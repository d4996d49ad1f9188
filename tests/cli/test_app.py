"""The command as a whole: its help, its version, and what it says without its libraries."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import streamguard_core
from streamguard_cli.app import app


def test_help_names_the_commands() -> None:
    """Without arguments, and with --help, the commands are listed."""
    for arguments in ([], ["--help"]):
        said = CliRunner().invoke(app, arguments)
        assert "engine" in said.output


def test_version() -> None:
    """The version is that of the core."""
    said = CliRunner().invoke(app, ["--version"])
    assert (said.exit_code, said.output) == (0, f"streamguard {streamguard_core.__version__}\n")


def test_unknown_command() -> None:
    """A command that does not exist is a usage error."""
    assert CliRunner().invoke(app, ["motor"]).exit_code == 2


def test_as_a_module() -> None:
    """`python -m streamguard_cli` is the same command."""
    done = subprocess.run(
        [sys.executable, "-m", "streamguard_cli", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.startswith("streamguard ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_that_cannot_be_written() -> None:
    """A full disk is one line, and no traceback."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-u", "-m", "streamguard_cli", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: cannot write the output: No space left on device")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_missing_libraries(missing: str) -> None:
    """Without typer or rich, importing fails with the line that installs them."""
    code = f"import sys; sys.modules[{missing!r}] = None; import streamguard_cli"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert re.search(r'pip install "streamguard-llm\[cli\]"$', done.stderr.strip())
