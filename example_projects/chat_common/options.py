"""What the chats are told by their command line, and what they open for it."""

from __future__ import annotations

import argparse
import math
import socket
import sys
from pathlib import Path

from streamguard_core import LedgerError
from streamguard_ledger import SQLiteLedger

WINDOW = 10.0
"""How long an answer waits for a reader whose connection broke, in seconds."""


def options(description: str, ledger: Path) -> argparse.ArgumentParser:
    """The options that every chat has.

    Args:
        description: what it is.
        ledger: where receipts go by default.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--port", type=int, default=8000, help="port on 127.0.0.1; 0 for a free one"
    )
    parser.add_argument("--engine", metavar="URL", help="Ollama, or an OpenAI-compatible .../v1")
    parser.add_argument("--model", metavar="NAME", help="the engine's first one by default")
    parser.add_argument(
        "--window",
        type=_seconds,
        default=WINDOW,
        metavar="SECONDS",
        help=f"how long an answer waits for a reader whose connection broke ({WINDOW:g})",
    )
    parser.add_argument(
        "--ledger", type=Path, default=ledger, metavar="DIR", help="folder for receipts"
    )
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no positive number of seconds")
    return value


def ledger_at(folder: Path) -> SQLiteLedger:
    """The ledger in a folder; ends the program with what to do if it cannot be written."""
    try:
        return SQLiteLedger(folder)
    except LedgerError as error:
        sys.exit(f"main.py: {error}")


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1; ends the program with what to do if there is none to be had."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        sys.exit(f"main.py: cannot listen on 127.0.0.1:{port} ({error}); try --port 0")
