"""Counts instructions of marked stretches of a program under valgrind's callgrind: the same figure every time."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

_TOTAL: Final = re.compile(r"^totals: (\d+)$", re.MULTILINE)


def available() -> bool:
    """True where valgrind is."""
    return shutil.which("valgrind") is not None


def stretches(module: str, *arguments: str) -> Iterator[int]:
    """Run `python -m module arguments` under callgrind; returns the counts of its marked stretches, in order."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "counts"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        command += ["--dump-before=getppid", sys.executable, "-m", module, *arguments]
        environment = {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        subprocess.run(command, check=True, capture_output=True, env=os.environ | environment)
        # The first dump is what came before the first mark; the stretches lie between pairs of marks.
        number = 2
        while (part := Path(f"{out}.{number}")).exists():
            match = _TOTAL.search(part.read_text())
            assert match is not None, "callgrind writes a total"
            yield int(match.group(1))
            number += 2


async def marked(run: Callable[[], Awaitable[object]]) -> None:
    """One stretch: callgrind writes its counts whenever `getppid` is called, which nobody else does."""
    gc.collect()
    gc.disable()
    await asyncio.sleep(0)
    os.getppid()
    await run()
    os.getppid()
    gc.enable()
