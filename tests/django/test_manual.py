"""The page of the manual says what the code does: its tables are complete, with the code's own values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.core.management import get_commands

from streamguard_django import signals
from streamguard_django.keys import KEYS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "django.md").read_text(encoding="utf-8")


def _rows(title: str) -> list[list[str]]:
    """The rows of the first table of a section, without its head."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_table_of_settings_is_complete() -> None:
    """Every key in the code's order, each with the default that holds."""
    said = {row[0].strip("`"): row[1].strip("`") for row in _rows("Settings")}
    assert said == {
        name: f'"{key.default}"' if isinstance(key.default, str) else repr(key.default)
        for name, key in KEYS.items()
    }
    assert list(said) == list(KEYS)


def test_the_table_of_checks_is_complete() -> None:
    """Every id that a check of ours has."""
    folder = ROOT / "integrations" / "streamguard_django"
    code = "".join((folder / name).read_text("utf-8") for name in ("checks.py", "conf.py"))
    used = set(re.findall(r'"(?:\{LABEL\}\.)?([EW]00\d)"', code))
    said = " ".join(row[0] for row in _rows("Checks"))
    assert "E001` to `E004" in said
    assert used == {"E001", "E002", "E003", "E004", *re.findall(r"W00\d", said)}


@pytest.mark.parametrize("title", ["Signals", "Receipts in the database and in the admin"])
def test_signals_and_commands_are_all_there(title: str) -> None:
    """Each signal and each command of the app is in its table."""
    named = " ".join(row[0] for row in _rows(title))
    if title == "Signals":
        there = {name for name in vars(signals) if name.startswith("stream_")}
        assert set(re.findall(r"stream_\w+", named)) == there
    else:
        there = {name for name, app in get_commands().items() if app == "streamguard_django"}
        assert set(re.findall(r"streamguard_\w+", named)) == there
