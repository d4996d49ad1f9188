"""Streams with readers that leave, unguarded and guarded side by side, and shows what each cost.

    python run.py [--engine URL] [--model NAME] [--ledger DIR] [--max-tokens N]

Exit code 0 when the guarded column is clean, 1 when it is not, 2 when it could not be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines import THINKING, Engine, NotAnEngine, Seen, check, engine_at
from readers import PATTERNS, Pattern, Phase, leave
from report import print_comparison, print_receipts, print_verdict, say

from streamguard_core import LedgerError
from streamguard_ledger import read_receipts, verify

MAX_BURNT = 6
"""Tokens that may still come: what was under way when the close reached the engine."""
MAX_LET_GO = 0.3
MIN_TOKENS = 100


@dataclass(frozen=True)
class Row:
    """One pattern in one phase, both ways."""

    pattern: Pattern
    phase: Phase
    plain: Seen
    guarded: Seen
    receipt: dict[str, Any] | None

    def problems(self) -> list[str]:
        """What is not clean in the guarded column."""
        found = []
        if self.guarded.burnt > MAX_BURNT:
            found.append(f"{self.guarded.burnt} tokens were generated after the reader left")
        if self.guarded.let_go is None or self.guarded.let_go > MAX_LET_GO:
            found.append(f"the engine's connection was held for {self.guarded.let_go} s")
        if self.receipt is None or self.receipt["cause"] != "CLIENT_DISCONNECT":
            found.append("the receipt does not say CLIENT_DISCONNECT")
        return [f"{self.pattern.name}, {self.phase}: {problem}" for problem in found]


@contextlib.contextmanager
def serve(engine: Engine, model: str, *flags: str) -> Iterator[str]:
    """Run `patterns.py` in a process of its own; yields its URL."""
    script = Path(__file__).with_name("patterns.py")
    command = [sys.executable, str(script), engine.url, "--model", model]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            [*command, "--send-buffer", "4096", *flags],
            stdin=pipe,
            stdout=pipe,
            stderr=log,
            text=True,
        ) as app,
    ):
        assert app.stdin is not None
        assert app.stdout is not None
        url = app.stdout.readline().strip()
        if not url:
            log.seek(0)
            raise RuntimeError(f"the example application did not start:\n{log.read()[-2000:]}")
        try:
            yield url
        finally:
            app.stdin.close()
            _wait_or_kill(app)


def _wait_or_kill(app: subprocess.Popen[str]) -> None:
    """The application leaves when its input is closed; nothing of it outlives the demo."""
    try:
        app.wait(timeout=15)
    except BaseException:
        app.kill()
        raise


async def compare(
    engine: Engine, plain: str, guarded: str, phase: Phase, max_tokens: int
) -> list[tuple[Seen, Seen]]:
    """All patterns in one phase, both ways, at the same time."""
    engine.think(THINKING if phase is Phase.THINKING else 0.0)
    name = phase.name.lower()
    calls = [
        leave(engine, url, pattern, phase, f"{way}-{name}-{index}", max_tokens)
        for index, pattern in enumerate(PATTERNS)
        for way, url in (("plain", plain), ("guarded", guarded))
    ]
    seen = await asyncio.gather(*calls)
    return list(zip(seen[::2], seen[1::2], strict=True))


async def compare_all(
    engine: Engine, plain: str, guarded: str, max_tokens: int
) -> dict[Phase, list[tuple[Seen, Seen]]]:
    """All phases, one after the other; announced inside the loop, which can be interrupted cleanly."""
    measured = {}
    for phase in Phase:
        say(f"8 readers ask for {max_tokens} tokens each and leave {phase} ...")
        measured[phase] = await compare(engine, plain, guarded, phase, max_tokens)
    return measured


def rows_of(ledger: Path, measured: dict[Phase, list[tuple[Seen, Seen]]]) -> list[Row]:
    """Each measurement with its receipt: per pattern, receipts come in the order of the phases."""
    receipts: dict[str, list[dict[str, Any]]] = {}
    for receipt in sorted(read_receipts(ledger), key=lambda receipt: receipt["stream_id"]):
        receipts.setdefault(receipt["tags"]["pattern"], []).append(receipt)
    rows = []
    for position, (phase, pairs) in enumerate(measured.items()):
        for pattern, (plain, guarded) in zip(PATTERNS, pairs, strict=True):
            found = receipts.get(pattern.name, [])
            one_each = len(found) == len(measured)
            kept = found[position] if one_each else None
            rows.append(Row(pattern, phase, plain, guarded, kept))
    return rows


def measure(arguments: argparse.Namespace, ledger: Path) -> tuple[list[Row], bool]:
    """Start everything, run every reader, and collect the rows."""
    with (
        engine_at(arguments.engine) as engine,
        serve(engine, arguments.model) as plain,
        serve(engine, arguments.model, "--guarded", "--ledger", str(ledger)) as guarded,
    ):
        tokens: int = arguments.max_tokens
        counted = (
            "  (loopback engine: counts every token)" if engine.exact else "  (through a relay)"
        )
        say(f"engine   {arguments.engine or engine.url}{counted}\nplain    {plain}")
        say(f"guarded  {guarded}\n")
        measured = asyncio.run(compare_all(engine, plain, guarded, tokens))
        exact = engine.exact
    return rows_of(ledger, measured), exact


def main() -> int:
    """Read the command line and measure; what prevents it is one line, and leaves nothing behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--engine", metavar="URL", help="a real engine: Ollama, llama.cpp, any OpenAI-compatible")
    add("--model", default="loopback", help="the model to ask the engine for")
    add("--ledger", type=Path, help="folder for the receipts (default: a new one)")
    add("--max-tokens", type=int, default=400, help="length of the answers asked for")
    arguments = parser.parse_args()
    if arguments.max_tokens < MIN_TOKENS:
        parser.error(f"--max-tokens must be {MIN_TOKENS} or more: readers leave in the middle")
    made = None if arguments.ledger else tempfile.mkdtemp(prefix="streamguard-receipts-")
    try:
        if arguments.engine:
            say(f"{arguments.engine} is asked for one token first, so that its model is loaded")
            check(arguments.engine, arguments.model)
        return judge(arguments, Path(made or arguments.ledger))
    except (NotAnEngine, LedgerError, OSError, EOFError, RuntimeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        failed = 2
    except KeyboardInterrupt:
        print("demo: interrupted; nothing is left running", file=sys.stderr)
        failed = 130
    if made is not None:
        shutil.rmtree(made, ignore_errors=True)
    return failed


def judge(arguments: argparse.Namespace, ledger: Path) -> int:
    """Measure, print, and say whether the guarded column is clean."""
    rows, exact = measure(arguments, ledger)
    print_comparison(rows, exact=exact)
    print_receipts([row.receipt for row in rows if row.receipt is not None])
    report = verify(ledger)
    problems = [problem for row in rows for problem in row.problems()]
    if not report.ok:
        problems.append(f"the ledger does not verify: {report}")
    print_verdict(problems, ledger)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
