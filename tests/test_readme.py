"""The first screen of the README shows the problem, a short example and the two commands."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIRST_SCREEN = "\n".join(README.splitlines()[:60])


def _first_example() -> str:
    block = re.search(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert block is not None, "the README has no Python example"
    return block[1]


def test_first_screen_shows_the_problem() -> None:
    """Somebody who reads sixty lines knows what goes wrong, and what it costs."""
    assert "generat" in FIRST_SCREEN
    assert "reader" in FIRST_SCREEN
    assert "receipt" in FIRST_SCREEN


def test_first_screen_has_the_two_commands() -> None:
    """`make demo` and `make test` stand on the first screen, and the Makefile has both."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in ("make demo", "make test"):
        assert command in FIRST_SCREEN
        assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE)


def test_first_example_is_short_and_is_run() -> None:
    """The first example has at most twelve lines of code, stands on the first screen, is run."""
    code = [line for line in _first_example().splitlines() if line.strip()]
    statements = [line for line in code if not line.lstrip().startswith("#")]
    assert len(statements) <= 12
    assert "StreamSession(" in _first_example()
    assert not _first_example().startswith("# not run")
    assert statements[-1] in FIRST_SCREEN


def _pages() -> str:
    """Everything that users read."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("example_projects/*/*.md")]
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def test_commands_that_are_named_exist() -> None:
    """Every `make` target, `streamguard` command and `tox` environment that a page names is there."""
    from typer.main import get_command

    from streamguard_cli.app import app

    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    environments = set(re.findall(r"^\[testenv:(\w+)\]", tox, re.MULTILINE)) | {"py312"}
    for start, there in (
        (r"(?:^\$ |^    |`)make", targets),
        (r"(?:^\$ |`|is `)streamguard", commands),
        (r"(?:^\$ |`)tox -e", environments),
    ):
        named = set(re.findall(rf"{start} ([a-z-]+)\b", _pages(), re.MULTILINE))
        assert named, start
        assert named <= there


def test_install_line_names_the_distribution() -> None:
    """The install lines of README and manual use the project's name, and extras that exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    lines = re.findall(r"pip install [\"']?([\w.-]+)(?:\[([\w,-]+)\])?[\"']?$", text, re.MULTILINE)
    installs = [(name, extras) for name, extras in lines if name.startswith("streamguard")]
    assert installs, "no install line was found"
    for name, extras in installs:
        assert name == project["name"]
        assert set(filter(None, extras.split(","))) <= set(project["optional-dependencies"])
