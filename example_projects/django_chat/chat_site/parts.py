"""What one process of the chat has once: its ledger, its engine, its statistics."""

from __future__ import annotations

import atexit
import contextlib
import functools

from chat_common.engine import Engine, engine_at
from chat_common.figures import Statistics
from django.conf import settings

from streamguard_ledger import SQLiteLedger

statistics = Statistics()
ended = statistics.ended
"""`STREAMGUARD` names it: told of every receipt."""


def make_ledger() -> SQLiteLedger:
    """Where every stream is recorded, before it costs anything and after; `STREAMGUARD` names this."""
    return SQLiteLedger(settings.RECEIPTS)


@functools.cache
def engine() -> Engine:
    """Who answers: what CHAT_ENGINE says, or a loopback engine in a thread of this process.

    Made when it is first needed, so that a server may fork its workers before.
    """
    running = contextlib.ExitStack()
    atexit.register(running.close)
    return running.enter_context(engine_at(settings.ENGINE, settings.MODEL))
