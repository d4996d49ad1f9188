"""The command `python -m streamguard_core.explore`."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from typing import TextIO

import msgspec

from streamguard_core.errors import UsageError
from streamguard_core.explore.exploration import DEFAULT_BOUND, DEFAULT_LIMITS, explore
from streamguard_core.explore.inputs import Bound
from streamguard_core.explore.report import as_data, as_text
from streamguard_core.explore.search import Progress
from streamguard_core.limits import Limits
from streamguard_core.policies import Rule


def main(arguments: Sequence[str] | None = None) -> int:
    """Explore, print what was found, and say by the exit code whether the guarantees hold.

    Returns:
        0 when all was visited and nothing is broken, otherwise 1. Bad arguments exit with 2.
    """
    options = _parser().parse_args(arguments)
    rules = tuple(Rule) if options.policy == "all" else (Rule(options.policy),)
    # Nothing here is cyclic, and looking for cycles among a million tuples takes a third of the time.
    gc.disable()
    try:
        exploration = explore(
            rules,
            Bound(options.tokens, states=options.states),
            options.limits,
            progress=_progress(sys.stderr),
        )
    finally:
        gc.enable()
    if options.json:
        report = msgspec.json.format(msgspec.json.encode(as_data(exploration))).decode()
    else:
        report = as_text(exploration)
    sys.stdout.write(report + "\n")
    return 0 if exploration.ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m streamguard_core.explore",
        description="Drive the real protocol object through every interleaving of its inputs, up to a"
        " bound, and check the guarantees in every state. Exits with 1 on any violation, and when"
        " the search was cut short.",
    )
    parser.add_argument(
        "--tokens",
        type=_at_least_one,
        default=DEFAULT_BOUND.tokens,
        metavar="N",
        help="chunks that the producer emits at most (default %(default)s); each one more adds"
        " about 120,000 states",
    )
    parser.add_argument(
        "--limits",
        type=_limits,
        default=DEFAULT_LIMITS,
        metavar="L,M",
        help="speculative_buffer_limit and max_inflight_commits"
        f" (default {DEFAULT_LIMITS.speculative_buffer_limit},"
        f"{DEFAULT_LIMITS.max_inflight_commits})",
    )
    parser.add_argument(
        "--states",
        type=_at_least_one,
        default=DEFAULT_BOUND.states,
        metavar="N",
        help="states of one policy after which its search is cut short (default %(default)s); a"
        " million take about half a gigabyte",
    )
    parser.add_argument(
        "--policy",
        choices=[*(str(rule) for rule in Rule), "all"],
        default="all",
        help="what a disconnect turns into (default %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return parser


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} was given; it is a whole number of at least 1")
    return int(text)


def _limits(text: str) -> Limits:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} was given; it is two whole numbers of at least 1, such as 2,1"
        )
    speculative, inflight = (int(part) for part in parts)
    try:
        return Limits(
            speculative_buffer_limit=speculative,
            max_inflight_commits=inflight,
            max_buffer_bytes=DEFAULT_LIMITS.max_buffer_bytes,
        )
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _progress(stream: TextIO) -> Progress | None:
    """Shown to somebody who waits, on one line; nobody reads it in a log."""
    if not stream.isatty():
        return None

    def show(states: int, waiting: int) -> None:
        stream.write(f"\r{states:>10,} states of this policy, {waiting:,} to expand ")
        stream.flush()

    return show


if __name__ == "__main__":
    sys.exit(main())
