"""The table of support: drawn from tox.ini for the README, and checked inside each of its environments."""

from __future__ import annotations

import configparser
import importlib.metadata
import itertools
import re
import sys
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

ROOT: Final = Path(__file__).resolve().parent.parent
BEGIN: Final = "<!-- support table: drawn from tox.ini by `python tests/support_table.py` -->"
END: Final = "<!-- end of the support table -->"

#: The libraries whose versions are factors, by the beginning of the factor's name.
LIBRARIES: Final = {"star": "Starlette", "fa": "FastAPI", "dj": "Django", "lc": "langchain-core"}
_PYTHON: Final = re.compile(r"py3(\d+)")


def expand(text: str) -> list[str]:
    """Return what a name with braces stands for.

    Example:
        >>> expand("py{311,312}-x")
        ['py311-x', 'py312-x']
    """
    parts = [part.split(",") for part in re.split(r"[{}]", text)]
    choices = [part if index % 2 else [",".join(part)] for index, part in enumerate(parts)]
    return ["".join(choice) for choice in itertools.product(*choices)]


class Matrix:
    """The environments of a tox.ini and what their factors pin."""

    def __init__(self, text: str) -> None:
        self._ini = configparser.RawConfigParser(inline_comment_prefixes=None)
        self._ini.read_string(text)
        self.defaults = self._listed("tox", "env_list")
        named = [name for section in self._ini.sections() for name in _names(section)]
        self.environments = list(dict.fromkeys([*self.defaults, *named]))

    @classmethod
    def here(cls) -> Matrix:
        """Return this project's."""
        return cls((ROOT / "tox.ini").read_text(encoding="utf-8"))

    def label(self, name: str) -> list[str]:
        """Return the environments under a label of `[tox]`."""
        for line in self._ini.get("tox", "labels").splitlines():
            label, _, listed = line.partition("=")
            if label.strip() == name:
                return _split(listed)
        raise LookupError(f"tox.ini has no label {name!r}")

    def pins(self, environment: str) -> list[Requirement]:
        """Return what is installed in an environment before the rest."""
        factors = set(environment.split("-"))
        found = []
        for line in self._ini.get("testenv", "deps").splitlines():
            if not line or line.startswith("#"):
                continue
            named, _, requirement = line.rpartition(": ")
            if not named or factors & set(expand(named)):
                found.append(Requirement(requirement))
        return found

    def version(self, environment: str) -> tuple[str, str]:
        """Return the library that an environment is about, and its version in words."""
        *_, factor = environment.split("-")
        key = next(key for key in LIBRARIES if factor.startswith(key))
        library = LIBRARIES[key]
        for pin in self.pins(environment):
            if pin.name == library.lower() and pin.specifier:
                return library, str(pin.specifier).removeprefix("==").removesuffix(".*")
        return library, "newest"

    def _listed(self, section: str, option: str) -> list[str]:
        return [
            name
            for line in self._ini.get(section, option).splitlines()
            if not line.startswith("#")
            for name in _split(line)
        ]


def _names(section: str) -> list[str]:
    """Return the environments that a section's head names."""
    head = section.removeprefix("testenv:")
    return [] if head == section else expand(head)


def _split(line: str) -> list[str]:
    """Return the names of a list; a comma inside of braces belongs to the name."""
    return [name for part in re.findall(r"(?:\{[^}]*\}|[^,\s])+", line) for name in expand(part)]


def pythons(environments: list[str]) -> list[str]:
    """Return the versions of Python in these names, oldest first."""
    minors = {int(match[1]) for name in environments if (match := _PYTHON.match(name))}
    return [f"3.{minor}" for minor in sorted(minors)]


def table(matrix: Matrix) -> str:
    """Return the table: a row for each version of a library, a column for each Python."""
    columns = pythons(matrix.environments)
    rows: dict[str, dict[str, bool]] = {}
    for name in matrix.environments:
        if not _PYTHON.match(name):
            continue
        row = rows.setdefault(_row(matrix, name), {})
        (python,) = pythons([name])
        row[python] = name in matrix.defaults
    lines = [f"| tested with | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for title in sorted(rows, key=_order):
        cells = [_CELLS[rows[title].get(python)] for python in columns]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


_CELLS: Final = {None: "", False: "yes", True: "**yes**"}
_WHOLE: Final = "everything, with the newest of all libraries"
_SERVERS: Final = "the servers"


def _row(matrix: Matrix, environment: str) -> str:
    _, *factors = environment.split("-")
    if not factors:
        return _WHOLE
    if factors == ["servers"]:
        return _SERVERS
    return " ".join(matrix.version(environment))


def _order(title: str) -> tuple[int, str, list[int]]:
    library, _, version = title.partition(" ")
    if library not in LIBRARIES.values():
        return (0 if title == _WHOLE else len(LIBRARIES) + 1), "", []
    numbers = [int(part) for part in version.split(".")] if version != "newest" else [1 << 30]
    return list(LIBRARIES.values()).index(library) + 1, library, numbers


def check(matrix: Matrix, environment: str) -> list[str]:
    """Return what is installed here and is not what the environment's name says."""
    wrong = []
    for pin in matrix.pins(environment):
        installed = importlib.metadata.version(pin.name)
        if not pin.specifier.contains(installed, prereleases=True):
            wrong.append(f"{environment} has {pin.name} {installed}; its name says {pin.specifier}")
    minor = f"py3{sys.version_info.minor}"
    if not environment.startswith(minor):
        wrong.append(f"{environment} runs on Python 3.{sys.version_info.minor}")
    return wrong


def main(arguments: list[str]) -> int:
    """Check the environment that is named, or write the table into the README."""
    matrix = Matrix.here()
    if arguments:
        wrong = [text for name in arguments for text in check(matrix, name)]
        print("\n".join(wrong or [f"{name}: as its name says" for name in arguments]))
        return bool(wrong)
    page = ROOT / "README.md"
    page.write_text(drawn(page.read_text(encoding="utf-8"), table(matrix)), encoding="utf-8")
    return 0


def drawn(page: str, drawing: str) -> str:
    """Return the page with the table between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{drawing}\n{END}{after}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
