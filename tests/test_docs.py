"""Every Python example of the README and of the manual runs, silently and without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = "# not run"
OUTPUT = "# prints: "


@dataclass(frozen=True, slots=True)
class Example:
    """One fenced Python block, with the place where it stands."""

    where: str
    code: str

    @property
    def promised(self) -> list[str]:
        """The lines that the example says it prints."""
        found = re.findall(rf"^{OUTPUT}(.*)$", self.code, re.MULTILINE)
        return [str(line).rstrip() for line in found]


def _examples() -> list[Example]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [example for page in pages for example in _examples_of(page)]


def _examples_of(page: Path) -> list[Example]:
    text = page.read_text(encoding="utf-8")
    return [
        Example(f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, block.start()) + 1}", block[2])
        for block in FENCE.finditer(text)
        if block[1] == "python"
    ]


EXAMPLES = _examples()
RUN = [example for example in EXAMPLES if not example.code.startswith(NOT_RUN)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.where)
def test_example_compiles(example: Example) -> None:
    """Each example is valid Python, also those that are not run."""
    compile(example.code, example.where, "exec", dont_inherit=True)


@pytest.mark.parametrize("example", RUN, ids=lambda example: example.where)
def test_example_runs(example: Example, tmp_path: Path) -> None:
    """Each example runs as a script of its own, warns of nothing and prints what it promises."""
    script = tmp_path / "example.py"
    script.write_text(example.code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "utf8", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{example.where} failed:\n{done.stdout}{done.stderr}"
    assert done.stderr == "", f"{example.where} wrote to stderr:\n{done.stderr}"
    printed = [line.rstrip() for line in done.stdout.splitlines()]
    for line in example.promised:
        assert line in printed, f"{example.where} promised {line!r}, printed {printed}"


def test_examples_exist() -> None:
    """The README and the quickstart hold examples that are really run, so that this file bites."""
    pages = {example.where.split(":")[0] for example in RUN}
    assert {"README.md", str(Path("docs") / "quickstart.md")} <= pages


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of the front pages names a file that exists."""
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    missing = [
        target
        for target in targets
        if "://" not in target
        and not target.startswith("mailto:")
        and not (page.parent / target).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("number", range(1, 15))
def test_guarantee_is_held_up_by_a_test(number: int) -> None:
    """Every guarantee of the manual is cited, by its number, by at least one test."""
    manual = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    assert f"**G{number}**" in manual
    cited = re.compile(rf"\bG{number}\b")
    here = Path(__file__).resolve()
    tests = (path for path in (ROOT / "tests").rglob("test_*.py") if path != here)
    assert any(cited.search(path.read_text(encoding="utf-8")) for path in tests)
