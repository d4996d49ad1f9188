"""What the reader sees: the answer on stdout, and beside it metrics, endings and receipts on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import time

from langchain_pipeline.metrics import MetricsCollector
from langchain_pipeline.pipeline import Ending

from streamguard_core import Attempt, Count, Receipt

_EVERY = 0.5
"""Seconds between two lines of metrics."""


class Terminal:
    """One reader.

    Args:
        monitor: whether to show the metrics while the answer comes.
    """

    def __init__(self, *, monitor: bool) -> None:
        self._monitor = monitor
        self._told = 0.0
        self._open = False
        """The answer's line is not at its end."""

    def show(self, text: str, metrics: MetricsCollector) -> None:
        """Show what has come of the answer.

        Raises:
            BrokenPipeError: when nobody reads it any more.
        """
        if not self._monitor:
            self._write(text)
            return
        before, ended, after = text.rpartition("\n")
        self._write(before + ended)
        if ended:
            self._live(metrics)
        self._write(after)

    def end(self) -> None:
        """The answer is over: its line, too."""
        if self._open:
            with contextlib.suppress(BrokenPipeError):
                self._write("\n")

    def say(self, line: str = "") -> None:
        """Say something that is not the answer."""
        print(line, file=sys.stderr, flush=True)

    def _live(self, metrics: MetricsCollector) -> None:
        now = time.monotonic()
        if now - self._told >= _EVERY:
            self._told = now
            self.say(f"  [{metrics}]")

    def _write(self, text: str) -> None:
        if not text:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still in the buffer goes nowhere, and nothing complains of it at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise
        self._open = not text.endswith("\n")


def summary(ending: Ending, said: list[str]) -> list[str]:
    """What is said of a stream when it is over, in lines.

    Args:
        ending: how it has ended.
        said: by the error handler.
    """
    failed = [] if ending.error is None else [f"the chain ended with {ending.error}"]
    errors = [f"Errors   {line}" for line in (*failed, *said)]
    return [f"Metrics  {ending.metrics}", *errors, *_lines(ending.receipt)]


def _lines(receipt: Receipt) -> list[str]:
    said = [
        f"Receipt  {receipt.stream_id}",
        f"  cause      {receipt.cause}{_behind(receipt)}",
        f"  finish     {receipt.finish or '-'}",
        f"  pieces     {receipt.produced} produced, {receipt.committed} committed, {receipt.consumed} consumed",
        f"  output     {_tokens(receipt.output)}",
        f"  prevented  {_prevented(receipt.prevented)}",
        f"  connection {receipt.close}",
    ]
    return said + [f"  attempt    {_attempt(each)}" for each in receipt.attempts]


def _tokens(count: Count) -> str:
    if count.value is None:
        return "unknown"
    exact = count.lower == count.upper
    return f"{'' if exact else 'about '}{count.value} tokens (source: {count.source})"


def _prevented(count: Count) -> str:
    return "unknown" if count.upper is None else f"up to {count.upper} tokens"


def _behind(receipt: Receipt) -> str:
    party = f" by {receipt.party}" if receipt.party else ""
    return party + (f": {receipt.detail}" if receipt.detail else "")


def _attempt(attempt: Attempt) -> str:
    error = f" ({attempt.error})" if attempt.error else ""
    outcome = attempt.outcome or "unknown"
    return f"{attempt.role} {attempt.provider} {attempt.model}: {outcome}{error}, {attempt.chunks} chunks"
