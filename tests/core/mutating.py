"""Takes one guard of the protocol away, in a copy of its class that is compiled from the source."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from streamguard_core import StreamProtocol
from streamguard_core import _lifecycle as lifecycle_module
from streamguard_core import protocol as protocol_module
from streamguard_core._deadlines import tick
from streamguard_core.explore import Driven


@dataclass(frozen=True)
class Site:
    """One way to take one guard away: replace the node at `place` by `by`, or an operand out of it."""

    name: str
    module: ModuleType
    method: str
    place: int
    """Which node of the method, in the order of `ast.walk`."""
    by: bool | int
    """The constant that takes its place; or, for an int, the operand or argument that is left out."""


def sites(module: ModuleType, class_name: str) -> Iterator[Site]:
    """Every way to take a guard of a class away, with a name that says which."""
    for method in class_of(module, class_name).body:
        if isinstance(method, ast.FunctionDef):
            seen: dict[str, int] = {}
            for place, node in enumerate(ast.walk(method)):
                for text, by in _removals(node):
                    count = seen[text] = seen.get(text, 0) + 1
                    name = f"{method.name}: {text}" + (f" ({count})" if count > 1 else "")
                    yield Site(name, module, method.name, place, by)


def _removals(node: ast.AST) -> Iterator[tuple[str, bool | int]]:
    if isinstance(node, ast.If | ast.IfExp):
        yield f"always {_short(node.test)}", True
        yield f"never {_short(node.test)}", False
    elif isinstance(node, ast.Return | ast.Assign) and _is_condition(node.value):
        what = "return" if isinstance(node, ast.Return) else f"{_short(node.targets[0])} ="
        yield f"{what} True", True
        yield f"{what} False", False
    elif isinstance(node, ast.BoolOp):
        for index, operand in enumerate(node.values):
            yield f"without {_short(operand)}", index
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("min", "max"):
        for index, argument in enumerate(node.args):
            yield f"without {_short(argument)} in {ast.unparse(node.func)}", index
    elif isinstance(node, ast.comprehension):
        for index, test in enumerate(node.ifs):
            yield f"always {_short(test)}", index


def _is_condition(node: ast.AST | None) -> bool:
    """A truth value; `x or default` is none, though its operands count."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        return all(_is_condition(value) for value in node.values)
    return isinstance(node, ast.Compare | ast.BoolOp | ast.UnaryOp)


def _short(node: ast.AST) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 60 else text[:57] + "..."


def _remove(node: ast.AST, by: bool | int) -> None:
    """Change `node` in place."""
    if isinstance(node, ast.If | ast.IfExp):
        node.test = ast.Constant(by)
    elif isinstance(node, ast.Return | ast.Assign):
        node.value = ast.Constant(by)
    elif isinstance(node, ast.comprehension):
        del node.ifs[by]
    elif isinstance(node, ast.BoolOp):
        # A conjunction holds without the operand, a disjunction does not.
        node.values[by] = ast.Constant(isinstance(node.op, ast.And))
    elif isinstance(node, ast.Call):
        del node.args[by]
        node.args.append(node.args[0])


@cache
def _source(module: ModuleType) -> str:
    """Read once: a file that is edited meanwhile must not be half of a mutant."""
    return inspect.getsource(module)


def class_of(module: ModuleType, name: str) -> ast.ClassDef:
    """The source of a class, parsed afresh: it may be changed."""
    body = ast.parse(_source(module)).body
    return next(node for node in body if isinstance(node, ast.ClassDef) and node.name == name)


def compiled(module: ModuleType, tree: ast.ClassDef, **replaced: Any) -> Any:
    """The class of `tree`, in a copy of its module's names: its enums and tables stay the real ones."""
    names = {**vars(module), **replaced}
    code = ast.fix_missing_locations(ast.Module([tree], []))
    exec(compile(code, f"<mutant of {module.__name__}>", "exec"), names)
    return names[tree.name]


def mutant(site: Site) -> type[StreamProtocol]:
    """The protocol without one guard."""
    base = site.module is lifecycle_module
    tree = class_of(site.module, "Lifecycle" if base else "StreamProtocol")
    method = next(
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == site.method
    )
    _remove(list(ast.walk(method))[site.place], site.by)
    if not base:
        return compiled(protocol_module, tree)  # type: ignore[no-any-return]
    lifecycle = compiled(lifecycle_module, tree)
    own = class_of(protocol_module, "StreamProtocol")
    return compiled(protocol_module, own, Lifecycle=lifecycle)  # type: ignore[no-any-return]


MOST_DECISIONS = 100
"""A tick that takes more decisions than that would take them for ever."""


def driven(site: Site) -> Driven:
    """The protocol without one guard."""
    return impatient(mutant(site))


def impatient(protocol: type[StreamProtocol]) -> Driven:
    """A deadline that is due for ever raises: a broken protocol must not hang its test."""
    left: int | None = None

    class Impatient(protocol):  # type: ignore[misc, valid-type]
        __slots__ = ()

        def terminate(self, *arguments: Any, **keywords: Any) -> bool:
            nonlocal left
            if left is not None:
                left -= 1
                assert left, "tick() spins"
            return bool(super().terminate(*arguments, **keywords))

    def counted_tick(protocol: StreamProtocol, now_ns: int) -> None:
        nonlocal left
        left = MOST_DECISIONS
        tick(protocol, now_ns)
        left = None

    return Driven(Impatient, counted_tick)
