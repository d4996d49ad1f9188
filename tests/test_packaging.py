"""What is built is complete, holds nothing else, and says truthfully what it needs."""

from __future__ import annotations

import importlib
import itertools
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = {
    "streamguard_core": ROOT / "streamguard_core",
    **{
        name: ROOT / "integrations" / name
        for name in (
            "streamguard_asgi",
            "streamguard_cli",
            "streamguard_django",
            "streamguard_langchain",
            "streamguard_ledger",
            "streamguard_providers",
            "streamguard_testing",
        )
    },
}

# Runs in a process of its own: makes one framework impossible to import, then imports a package.
WITHOUT = """
import sys
sys.modules[{framework!r}] = None
import {package}
"""


@dataclass(frozen=True, slots=True)
class Built:
    """The wheel that was built by way of the sdist, and the sdist."""

    wheel: Path
    sdist: Path

    def names(self) -> set[str]:
        """Return the names of the files in the wheel."""
        with zipfile.ZipFile(self.wheel) as archive:
            return {name for name in archive.namelist() if not name.endswith("/")}

    def read(self, suffix: str) -> str:
        """Return the text of the one file in the wheel whose name ends like this."""
        with zipfile.ZipFile(self.wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(suffix)]
            return archive.read(name).decode()

    def metadata(self) -> Message:
        """Return the wheel's metadata."""
        return Parser().parsestr(self.read(".dist-info/METADATA"))


def _build(outdir: Path, *flags: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(outdir), *flags]
    done = subprocess.run(
        [*command, str(ROOT)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build the sdist, and the wheel out of the sdist, once."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    outdir = tmp_path_factory.mktemp("dist")
    _build(outdir)
    return Built(next(outdir.glob("*.whl")), next(outdir.glob("*.tar.gz")))


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_wheel_holds_the_whole_package(built: Built, package: str) -> None:
    """Every file of a package is in the wheel, under the name by which it is imported."""
    folder = PACKAGES[package]
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md"
    }
    assert f"{package}/__init__.py" in expected
    assert f"{package}/py.typed" in expected
    assert expected <= built.names()


def test_wheel_holds_nothing_else(built: Built) -> None:
    """No test, example, document or cache is installed on anybody's machine."""
    top = {name.split("/")[0] for name in built.names()}
    (info,) = [name for name in top if name.endswith(".dist-info")]
    assert top - {info} == set(PACKAGES)
    assert not [name for name in built.names() if name.endswith((".md", ".pyc", ".sqlite3"))]


def test_wheel_has_the_table_of_terminations(built: Built) -> None:
    """The data that a package reads is installed with it, to the letter."""
    path = ROOT / "integrations" / "streamguard_providers" / "termination_table.json"
    assert built.read("streamguard_providers/termination_table.json") == path.read_text("utf-8")


def test_wheel_from_the_checkout_is_the_wheel_from_the_sdist(built: Built, tmp_path: Path) -> None:
    """Nothing that the build needs is missing in the sdist."""
    _build(tmp_path, "--wheel")
    direct = Built(next(tmp_path.glob("*.whl")), built.sdist)
    assert direct.names() == built.names()


def test_sdist_can_be_tested(built: Built) -> None:
    """Who has the sdist has the tests, the tools' settings and the manual."""
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"tests/test_packaging.py", "tox.ini", "Makefile", "docs/index.md", "LICENSE"} <= names


def test_editable_install_puts_both_storeys_on_the_path(tmp_path: Path) -> None:
    """An editable install makes core and integrations importable by their own names."""
    build = pytest.importorskip("build")
    pytest.importorskip("hatchling")
    wheel = build.ProjectBuilder(ROOT).build("editable", tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        (pth,) = [name for name in archive.namelist() if name.endswith(".pth")]
        paths = archive.read(pth).decode().split("\n")
    assert {Path(path) for path in paths if path} == {ROOT, ROOT / "integrations"}


def test_metadata_says_what_the_project_says(built: Built) -> None:
    """Name, version, licence, Python and extras of the wheel are those of the project."""
    metadata = built.metadata()
    init = (ROOT / "streamguard_core" / "__init__.py").read_text(encoding="utf-8")
    assert metadata["Name"] == PROJECT["name"]
    assert f'__version__ = "{metadata["Version"]}"' in init
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    assert "streamguard = streamguard_cli:main" in built.read("entry_points.txt")


def test_only_msgspec_is_needed_without_extras(built: Built) -> None:
    """A plain installation brings msgspec and nothing else."""
    required = built.metadata().get_all("Requires-Dist", [])
    always = [line for line in required if "extra ==" not in line]
    assert [re.split(r"\W", line)[0] for line in always] == ["msgspec"]


@pytest.mark.parametrize(
    ("package", "framework", "extra"),
    [
        ("streamguard_asgi", "starlette", "asgi"),
        ("streamguard_providers", "httpx", "providers"),
        ("streamguard_cli", "typer", "cli"),
        ("streamguard_django", "django", "django"),
        ("streamguard_langchain", "langchain_core", "langchain"),
        ("streamguard_ledger.prices", "genai_prices", "prices"),
    ],
)
def test_missing_framework_names_the_extra(package: str, framework: str, extra: str) -> None:
    """Importing a package without its framework fails with the line that installs it."""
    code = WITHOUT.format(framework=framework, package=package)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert re.search(rf"pip install .?{PROJECT['name']}\[{extra}\]", done.stderr), done.stderr


def _bounds(lines: Iterable[str], operator: str) -> dict[str, Version]:
    """Return the version that each line names; lines that name our own extras are passed over."""
    wanted = [Requirement(line) for line in lines]
    return {
        requirement.name: Version(str(requirement.specifier).removeprefix(operator))
        for requirement in wanted
        if requirement.name != PROJECT["name"]
    }


def test_oldest_versions_are_the_lower_bounds() -> None:
    """The environment `oldest` tests exactly the lower bounds that the metadata promises."""
    extras = PROJECT["optional-dependencies"].values()
    promised = [*PROJECT["dependencies"], *itertools.chain.from_iterable(extras)]
    text = (ROOT / "tests" / "constraints-oldest.txt").read_text(encoding="utf-8")
    pins = _bounds([line for line in text.splitlines() if not line.startswith("#")], "==")
    bounds = _bounds(promised, ">=")
    assert {name: pins.get(name) for name in bounds} == bounds


@pytest.mark.parametrize(
    "extra", ["asgi", "django", "langchain", "providers", "ledger", "testing", "cli"]
)
def test_package_needs_what_its_extra_brings(extra: str) -> None:
    """What a package says it needs in `supported.py` is what its extra installs."""
    supported = importlib.import_module(f"streamguard_{extra}.supported")
    brought = PROJECT["optional-dependencies"][extra]
    assert _bounds(supported.REQUIRES, ">=") == _bounds(brought, ">=")


def test_prices_need_what_their_extra_brings() -> None:
    """List prices are an extra of their own beside the ledger's, which needs nothing."""
    supported = importlib.import_module("streamguard_ledger.supported")
    brought = PROJECT["optional-dependencies"]["prices"]
    assert _bounds(supported.REQUIRES_PRICES, ">=") == _bounds(brought, ">=")
