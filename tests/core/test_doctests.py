"""Runs the examples in the docstrings of the core."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import streamguard_core

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(streamguard_core.__path__, "streamguard_core.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_are_true(name: str) -> None:
    """What a docstring shows is what happens."""
    failed, _ = doctest.testmod(importlib.import_module(name), verbose=False)
    assert failed == 0


def test_the_testing_kit_is_shown_by_examples() -> None:
    """Every public module of the kit has one."""
    for name in ("", ".clock", ".loop", ".producers", ".consumers", ".script"):
        module = importlib.import_module(f"streamguard_core.testing{name}")
        finder = doctest.DocTestFinder(exclude_empty=True)
        assert any(found.examples for found in finder.find(module)), name
    for name in (".producer_checks", ".adapter_checks"):
        assert ">>>" in (importlib.import_module(f"streamguard_core.testing{name}").__doc__ or "")
