"""What this package needs."""

from __future__ import annotations

from typing import Final

#: Oldest versions of the libraries of the extra `cli` with which this package is tested.
REQUIRES: Final[tuple[str, ...]] = ("typer>=0.26.0", "rich>=13.9.0")

#: What to type when one of them is missing.
INSTALL: Final = 'pip install "streamguard-llm[cli]"'
