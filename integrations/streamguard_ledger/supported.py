"""What this package needs, and what it was shown to work with."""

from __future__ import annotations

from typing import Final

#: Nothing is needed but the core: SQLite comes with Python.
REQUIRES: Final[tuple[str, ...]] = ()

INSTALL_PRICES: Final = 'pip install "streamguard-llm[prices]"'

#: What `streamguard_ledger.prices` needs beside; a `PriceBook` needs nothing.
REQUIRES_PRICES: Final[tuple[str, ...]] = ("genai-prices>=0.2.3",)

#: STRICT tables need 3.37. Versions before 3.51.3 may lose writes when several connections write
#: and checkpoint one file; here every file has one writer, so that this cannot come up.
OLDEST_SQLITE: Final[tuple[int, int, int]] = (3, 37, 0)

#: Whoever owns a file holds its lock (flock). On Windows there is none, and no ledger yet.
SUPPORTED: Final[dict[str, str]] = {
    "sqlite": "3.37 and newer, on a local file system (not NFS)",
    "system": "Linux, macOS, BSD",
}
