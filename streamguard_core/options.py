"""The keywords that every session takes, as a type: adapters pass them on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

from streamguard_core.clock import Clock
from streamguard_core.gates import Gate
from streamguard_core.ledger import Ledger
from streamguard_core.limits import Deadlines
from streamguard_core.observers import Observer
from streamguard_core.policies import OnDisconnect
from streamguard_core.price import Pricer
from streamguard_core.termination import Termination, TerminationLookup


class SessionOptions(TypedDict, total=False):
    """What a stream's session is built with, besides its producer; see `StreamSession`."""

    speculative_buffer_limit: int
    max_inflight_commits: int
    max_buffer_bytes: int
    model: str | None
    provider: str | None
    max_tokens: int | None
    tags: Mapping[str, str] | None
    deadlines: Deadlines | None
    gates: Iterable[Gate]
    on_disconnect: OnDisconnect
    termination: Termination | TerminationLookup | None
    ledger: Ledger | None
    clock: Clock | None
    observers: Iterable[Observer]
    prices: Pricer | None
