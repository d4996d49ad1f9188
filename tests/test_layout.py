"""House rules of the source tree that no linter checks."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INTEGRATIONS = ROOT / "integrations"
PACKAGES = [
    ROOT / "streamguard_core",
    *sorted(path.parent for path in INTEGRATIONS.glob("*/__init__.py")),
]
MODULES = sorted(module for package in PACKAGES for module in package.rglob("*.py"))
CORE = [module for module in MODULES if not module.is_relative_to(INTEGRATIONS)]
OUTSIDE_CORE = [module for module in MODULES if module.is_relative_to(INTEGRATIONS)]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _imported(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of everything that is imported, names from a package included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_module_says_what_it_is_for(module: Path) -> None:
    """The first line of every module is one sentence."""
    doc = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    assert doc, "no docstring"
    assert doc.splitlines()[0].endswith((".", "?", ":")), "the first line is not a sentence"


@pytest.mark.parametrize("module", CORE, ids=_name)
def test_core_needs_the_standard_library_and_msgspec_only(module: Path) -> None:
    """No module of the core imports anything foreign but msgspec, not even where it is optional."""
    roots = {name.split(".")[0] for name in _imported(ast.parse(module.read_text("utf-8")))}
    assert roots - sys.stdlib_module_names <= {"msgspec", "streamguard_core"}


@pytest.mark.parametrize("module", OUTSIDE_CORE, ids=_name)
def test_integration_uses_public_core_names(module: Path) -> None:
    """An integration imports no private module and no private name of the core."""
    private = [
        name
        for name in _imported(ast.parse(module.read_text(encoding="utf-8")))
        if name.startswith("streamguard_core.")
        and any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
    ]
    assert private == []


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_no_package_is_imported_by_its_folder(module: Path) -> None:
    """Nobody imports `integrations.streamguard_x`, the tests, the benchmarks or the examples."""
    roots = {name.split(".")[0] for name in _imported(ast.parse(module.read_text("utf-8")))}
    assert not roots & {"integrations", "tests", "bench", "example_projects"}


@pytest.mark.parametrize("package", PACKAGES, ids=_name)
def test_package_is_typed_and_has_a_face(package: Path) -> None:
    """Every package ships py.typed, and an __init__ whose __all__ names what is public."""
    assert (package / "py.typed").is_file()
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    targets = [
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    ]
    assert "__all__" in targets
