"""Tools for testing what is built on StreamGuard: virtual time, scripts, a server, conformance checks.

Everything here works without sockets, sleeps and luck::

    >>> import asyncio
    >>> from streamguard_core import StreamSession
    >>> from streamguard_core.testing import ScriptedProducer, emit, hang, run
    >>> async def main():
    ...     session = StreamSession(ScriptedProducer(emit("never"), hang()))
    ...     async for chunk in session:
    ...         session.cancel("user pressed stop")
    ...     return chunk, str((await session.receipt()).cause)
    >>> run(main())
    ('never', 'USER_CANCEL')
"""

from streamguard_core.testing.adapter_checks import check_adapter
from streamguard_core.testing.asgi_server import ASGIServer
from streamguard_core.testing.clock import ManualClock
from streamguard_core.testing.conformance import ConformanceError, ConformanceReport, Violation
from streamguard_core.testing.consumers import (
    Deed,
    ScriptedConsumer,
    leave,
    park,
    raise_error,
    read,
    read_batches,
    read_ready,
    second_reader,
    stall,
)
from streamguard_core.testing.loop import Deadlock, JumpingLoop, jumping_loop, run, settled
from streamguard_core.testing.producer_checks import check_producer
from streamguard_core.testing.producers import (
    Played,
    ScriptedProducer,
    ScriptedPull,
    scripted_blocking,
    scripted_iterator,
)
from streamguard_core.testing.script import (
    Step,
    big_chunk,
    call,
    emit,
    emit_from_thread,
    emit_late,
    emit_without_awaiting,
    fail,
    finish,
    hang,
    ignore_cancel,
    raise_in_finally,
    truncate,
    wait,
)

__all__ = [
    "ASGIServer",
    "ConformanceError",
    "ConformanceReport",
    "Deadlock",
    "Deed",
    "JumpingLoop",
    "ManualClock",
    "Played",
    "ScriptedConsumer",
    "ScriptedProducer",
    "ScriptedPull",
    "Step",
    "Violation",
    "big_chunk",
    "call",
    "check_adapter",
    "check_producer",
    "emit",
    "emit_from_thread",
    "emit_late",
    "emit_without_awaiting",
    "fail",
    "finish",
    "hang",
    "ignore_cancel",
    "jumping_loop",
    "leave",
    "park",
    "raise_error",
    "raise_in_finally",
    "read",
    "read_batches",
    "read_ready",
    "run",
    "scripted_blocking",
    "scripted_iterator",
    "second_reader",
    "settled",
    "stall",
    "truncate",
    "wait",
]
