"""Gates decide between speculative and committed: PASS, HOLD or CUT."""

from __future__ import annotations

from enum import Enum
from typing import Final, Protocol, runtime_checkable

import msgspec

from streamguard_core.causes import Cause
from streamguard_core.chunks import AnyChunk
from streamguard_core.errors import UsageError


class Pass(Enum):
    """The two verdicts that carry nothing."""

    PASS = "PASS"
    HOLD = "HOLD"


PASS: Final = Pass.PASS
"""Everything up to and including this chunk may be released."""
HOLD: Final = Pass.HOLD
"""Not yet: keep this chunk (and what came before it and is still held) speculative."""


class CUT(msgspec.Struct, frozen=True):
    """End the stream now; neither this chunk nor anything held is released."""

    cause: Cause = Cause.GUARDRAIL
    detail: str = ""


Verdict = Pass | CUT


@runtime_checkable
class Gate(Protocol):
    """Looks at every chunk before it is committed, in order, exactly once.

    Optional attributes: `lookahead` (most chunks it will ever hold, default 0 = unknown), `lookback`
    (characters of text before the chunk it wants to see, default 4096, None for all) and a method
    `finish(text_so_far) -> Verdict`, asked when the producer has ended while chunks are held
    (default PASS: what is held is released).
    """

    def decide(self, text_so_far: str, chunk: AnyChunk) -> Verdict:
        """Judge a chunk before it is committed.

        Args:
            text_so_far: the text before it, at least its last `lookback` characters.
            chunk: what the producer made next.

        Returns:
            PASS, HOLD or `CUT(cause, detail)`. Anything else ends the stream as INTERNAL_ERROR, and so does raising.
        """


DEFAULT_LOOKBACK: Final = 4096


def check_gates(gates: tuple[Gate, ...], speculative_buffer_limit: int) -> tuple[Gate, ...]:
    """Return the gates if each can work within the speculative buffer.

    Raises:
        UsageError: when one is no gate, or may hold more chunks than the buffer has room for.
    """
    for gate in gates:
        if not callable(getattr(gate, "decide", None)):
            raise UsageError(
                f"gate {gate!r} has no decide(text_so_far, chunk); see streamguard_core.Gate"
            )
        lookahead = getattr(gate, "lookahead", 0)
        if lookahead >= speculative_buffer_limit:
            raise UsageError(
                f"gate {type(gate).__name__} may hold {lookahead} chunks, which needs"
                f" speculative_buffer_limit of at least {lookahead + 1}, got {speculative_buffer_limit}"
            )
    return gates
