"""What an error that ended a producer comes to: the cause it stands for, and what a receipt may show of it."""

from __future__ import annotations

import asyncio
from typing import Final

from streamguard_core.causes import Cause
from streamguard_core.errors import (
    LedgerError,
    StreamGuardError,
    StreamStopped,
    TruncatedStream,
    UsageError,
)

TOLD: Final = (asyncio.CancelledError, GeneratorExit, StreamStopped)
"""How a producer ends that was told to."""


def cause_of_error(error: BaseException) -> Cause:
    """Whose failure it is: the provider's, unless it is known to be another's."""
    if isinstance(error, TruncatedStream):
        return Cause.TRUNCATED
    return (
        Cause.INTERNAL_ERROR
        if isinstance(error, LedgerError | UsageError)
        else Cause.PRODUCER_ERROR
    )


def describe(error: BaseException) -> str:
    """An error as a receipt may show it: its type, and its text only where we wrote that ourselves."""
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, StreamGuardError) and str(error) else name
