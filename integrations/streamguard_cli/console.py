"""What all commands print with, so that they look alike and long lines stay copyable."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.text import Text


def console(*, stderr: bool = False) -> Console:
    """Return a console: no wrapping, and no markup, as text may come from anywhere."""
    return Console(stderr=stderr, soft_wrap=True, markup=False, highlight=False, emoji=False)


def fail(message: str) -> typer.Exit:
    """Print what went wrong, and return the exception with which a command exits."""
    console(stderr=True).print(Text.assemble(("Error: ", "bold red"), message))
    return typer.Exit(code=1)


def warn(message: str) -> None:
    """Print what somebody should know before it hurts."""
    console(stderr=True).print(Text.assemble(("Warning: ", "bold yellow"), message))
