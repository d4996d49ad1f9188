"""The interpreter ends in mid-stream: nothing hangs and nothing is shouted (pitfall 15)."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import asyncio, sys
from streamguard_core import Deadlines, StreamSession, SyncStreamSession

def words():
    while True:
        yield "word"

async def awords():
    while True:
        yield "word"

async def begin(**keywords):
    session = StreamSession(deadlines=Deadlines(total=600), **keywords)
    iterator = aiter(session)
    await anext(iterator)
    return session, iterator

async def main():
    return [
        await begin(producer=awords()),
        await begin(producer=awords(), own_task=True),
        await begin(producer=words()),
    ]

loop = asyncio.new_event_loop()
kept = loop.run_until_complete(main())
if sys.argv[1] == "closed":
    loop.close()
session = SyncStreamSession(words(), deadlines=Deadlines(total=600))
chunks = iter(session)
next(chunks)
print("begun", flush=True)
"""


@pytest.mark.parametrize("loop", ["open", "closed"])
def test_the_interpreter_ends_in_mid_stream(loop: str) -> None:
    """Threads, timers and iterators do not hold the process; its ledger recovers what was open (G11)."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, loop],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "begun\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert "Fatal" not in done.stderr
