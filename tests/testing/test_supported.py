"""The package can be imported by anybody."""

from __future__ import annotations

import subprocess
import sys

from streamguard_testing.supported import REQUIRES, SUPPORTED

# Runs in a process of its own: prints what comes along when the package is imported.
IMPORTED = """
import sys
before = set(sys.modules)
import streamguard_testing
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(roots - set(sys.stdlib_module_names)))
"""


def test_the_standard_library_is_enough() -> None:
    """What a user's tests import from here brings nothing foreign with it."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["streamguard_testing"]
    assert REQUIRES == ()
    assert {"ollama", "openai"} <= SUPPORTED.keys()
