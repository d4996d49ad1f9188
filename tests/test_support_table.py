"""What the README says is supported is what tox.ini tests."""

from __future__ import annotations

import tomllib

import pytest
from packaging.requirements import Requirement

from .support_table import BEGIN, END, LIBRARIES, ROOT, Matrix, check, drawn, expand, pythons, table

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MATRIX = Matrix.here()

SMALL = """
[tox]
env_list = lint, py311, py312-asgi-star{052,latest}
labels =
    quick = py312-asgi-star052
[testenv]
deps =
    # A comment.
    star052: starlette==0.52.*
    star{052,10}: fastapi
commands = pytest
[testenv:py{311,312}-asgi-star{052,latest}]
description = text
[testenv:bench]
"""


def test_the_table_is_that_of_tox() -> None:
    """The README's table is drawn from tox.ini: `python tests/support_table.py` draws it again."""
    assert drawn(README, table(MATRIX)) == README
    assert README.count(BEGIN) == README.count(END) == 1


def test_drawing() -> None:
    """A row for each version, a column for each Python, bold where it is tested by default."""
    assert table(Matrix(SMALL)).splitlines() == [
        "| tested with | 3.11 | 3.12 |",
        "|---|---|---|",
        "| everything, with the newest of all libraries | **yes** |  |",
        "| Starlette 0.52 | yes | **yes** |",
        "| Starlette newest | yes | **yes** |",
    ]


def test_pins() -> None:
    """A factor pins what its lines say, also in braces, and no other factor's."""
    matrix = Matrix(SMALL)
    assert [str(pin) for pin in matrix.pins("py311-asgi-star052")] == [
        "starlette==0.52.*",
        "fastapi",
    ]
    assert matrix.pins("py311-asgi-starlatest") == []
    assert matrix.label("quick") == ["py312-asgi-star052"]
    with pytest.raises(LookupError, match="no label"):
        matrix.label("slow")


def test_what_is_installed_is_checked() -> None:
    """An environment that does not have what its name says is told so."""
    text = SMALL.replace("starlette==0.52.*", "pytest==0.1.*").replace("py{311,312}", "py39")
    (wrong, python) = check(Matrix(text), "py39-asgi-star052")[:2]
    assert "its name says ==0.1.*" in wrong
    assert "py39-asgi-star052 runs on" in python


def test_braces() -> None:
    """Names with braces stand for all their combinations, in order."""
    assert expand("plain") == ["plain"]
    assert expand("a{1,2}-b{3,4}") == ["a1-b3", "a1-b4", "a2-b3", "a2-b4"]


def test_every_version_runs_on_each_python_that_it_supports() -> None:
    """A library's versions are all tested on the newest Python of the matrix, and on its oldest or a reason."""
    cells = [name for name in MATRIX.environments if name.startswith("py") and "-" in name]
    assert cells
    for name in cells:
        python, rest = name.split("-", 1)
        assert f"py313-{rest}" in cells, name
        # Django 6 needs 3.12.
        oldest = "py312" if rest.endswith(("dj60", "dj61")) else "py311"
        assert f"{oldest}-{rest}" in cells, name
        assert python >= oldest


def test_the_quick_part_is_in_the_default() -> None:
    """`tox -m quick` names environments that there are, and plain `tox` runs them too."""
    quick = MATRIX.label("quick")
    assert quick
    assert set(quick) <= set(MATRIX.defaults)
    assert set(quick) <= set(MATRIX.environments)
    assert {name.split("-")[0] for name in quick} >= {"py311", "py313"}


def test_pythons_are_those_of_the_metadata() -> None:
    """Each Python that the metadata names has an environment, and no other has."""
    said = [
        line.rpartition(" ")[2]
        for line in PROJECT["classifiers"]
        if line.startswith("Programming Language :: Python :: 3.")
    ]
    assert pythons(MATRIX.environments) == said


def test_no_pin_is_older_than_the_lower_bound() -> None:
    """What the matrix pins is inside the bounds that the metadata promises."""
    extras = PROJECT["optional-dependencies"].values()
    promised = {
        wanted.name: wanted.specifier
        for line in [line for extra in extras for line in extra]
        if (wanted := Requirement(line)).name in {name.lower() for name in LIBRARIES.values()}
    }
    pins = [pin for name in MATRIX.environments for pin in MATRIX.pins(name) if pin.specifier]
    assert pins
    for pin in pins:
        oldest = str(pin.specifier).removeprefix("==").removesuffix(".*")
        if pin.name in promised:
            assert promised[pin.name].contains(f"{oldest}.999"), pin
