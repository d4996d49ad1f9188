"""Every address of the engine is told where people look for it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from streamguard_cli.engine import engine as command
from streamguard_testing import Fault, lookup
from streamguard_testing.background import PATHS as BACKGROUND
from streamguard_testing.routes import PATHS

DOCS = Path(__file__).parents[2] / "docs" / "testing-your-app.md"


@pytest.mark.parametrize("path", [*PATHS, lookup.PATH])
def test_help_names_it(path: str) -> None:
    """`streamguard engine --help` names every address that one may ask for a generation."""
    said = command.__doc__ or ""
    address, _, action = path.partition(":")
    assert address in said
    assert action in said


@pytest.mark.parametrize("path", [*PATHS, *BACKGROUND, lookup.PATH])
async def test_manual_and_not_found_name_it(http: httpx.AsyncClient, path: str) -> None:
    """The manual names every address, and so does the answer to one that does not exist."""
    if not DOCS.exists():
        pytest.skip("the manual is not beside these tests")
    address, _, action = path.partition(":")
    said = DOCS.read_text(encoding="utf-8")
    assert address in said
    assert action in said
    assert path in (await http.get("/nowhere")).json()["error"]


def test_manual_names_every_fault() -> None:
    """The manual names every fault that a reader of it would look for."""
    if not DOCS.exists():
        pytest.skip("the manual is not beside these tests")
    said = DOCS.read_text(encoding="utf-8")
    details = {"trickle_interval", "usage_delay"}
    assert [
        name for name in Fault.__slots__ if name not in details and f"`{name}`" not in said
    ] == []
