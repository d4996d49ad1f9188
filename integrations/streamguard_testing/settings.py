"""Settings: how a loopback engine behaves, validated once, at the edge."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypedDict

from streamguard_testing.faults import Fault
from streamguard_testing.model import NGramModel
from streamguard_testing.records import EngineRequest


class EngineOptions(TypedDict, total=False):
    """The keywords of `LoopbackEngine` and `run_engine`; `EngineSettings` says what they mean."""

    host: str
    port: int
    allow_remote: bool
    tokens_per_second: float | None
    interval: float | None
    burst: int
    lead: int
    first_token_delay: float
    slots: int | None
    seed: int
    answer_tokens: int | None
    max_tokens_limit: int
    models: tuple[str, ...]
    model: NGramModel
    fault: Fault
    max_unsent_bytes: int
    send_buffer: int | None
    max_body_bytes: int
    max_connections: int
    max_records: int
    on_ended: Callable[[EngineRequest], None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How a loopback engine behaves.

    Args:
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.
        allow_remote: Must be True for a host that other machines can reach.
        tokens_per_second: The pace; as fast as possible when neither this nor `interval` is given.
        interval: The pace, as seconds from one token to the next.
        burst: How many tokens are generated and written at once; the mean pace stays the same.
        lead: How many tokens come as fast as possible before the pace begins; with a slow pace, a
            reader can leave in mid-stream for certain.
        first_token_delay: Seconds of "thinking" before the first token.
        slots: How many requests are generated at the same time; the others wait, without headers.
        seed: Seed of the text, for requests that bring none.
        answer_tokens: Length at which the model comes to its end by itself (finish `stop`). When
            None, a request's own maximum is used in full (`length`), and 128 where it names none.
        max_tokens_limit: A request that asks for more than this is refused.
        models: Names listed by `/api/tags` and `/v1/models`; any other name is served as well.
        model: The n-gram model that makes the text.
        fault: What goes wrong with requests that do not choose for themselves.
        max_unsent_bytes: Generation goes on while the socket is full, until this much waits.
        send_buffer: Size of the kernel's send buffer per connection; the system's own when None.
        max_body_bytes: Largest request body.
        max_connections: Connections beyond this number are refused.
        max_records: How many requests are remembered; the oldest ended ones are forgotten.
        on_ended: Called in the engine's loop with the record of each request that has ended.

    Raises:
        ValueError: When a value is impossible, or two contradict each other.
    """

    host: str = "127.0.0.1"
    port: int = 0
    allow_remote: bool = False
    tokens_per_second: float | None = None
    interval: float | None = None
    burst: int = 1
    lead: int = 1
    first_token_delay: float = 0.0
    slots: int | None = None
    seed: int = 0
    answer_tokens: int | None = None
    max_tokens_limit: int = 100_000
    models: tuple[str, ...] = ("loopback",)
    model: NGramModel = field(default_factory=NGramModel)
    fault: Fault = field(default_factory=Fault)
    max_unsent_bytes: int = 8 * 1024 * 1024
    send_buffer: int | None = None
    max_body_bytes: int = 4 * 1024 * 1024
    max_connections: int = 1024
    max_records: int = 10_000
    on_ended: Callable[[EngineRequest], None] | None = None

    def __post_init__(self) -> None:
        if self.tokens_per_second is not None and self.interval is not None:
            raise ValueError("the pace is tokens_per_second or interval, not both")
        if self.tokens_per_second is not None and not 0 < self.tokens_per_second < float("inf"):
            raise ValueError(
                f"tokens_per_second must be greater than 0 and finite, got {self.tokens_per_second}"
            )
        _at_least(0, interval=self.interval, first_token_delay=self.first_token_delay)
        _at_least(
            1,
            burst=self.burst,
            lead=self.lead,
            slots=self.slots,
            answer_tokens=self.answer_tokens,
            max_tokens_limit=self.max_tokens_limit,
            max_unsent_bytes=self.max_unsent_bytes,
            send_buffer=self.send_buffer,
            max_body_bytes=self.max_body_bytes,
            max_connections=self.max_connections,
            max_records=self.max_records,
        )
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, got {self.port}")
        if not self.allow_remote and not is_loopback(self.host):
            raise ValueError(
                f"{self.host!r} can be reached from other machines and the engine has no access"
                " control; use 127.0.0.1, or say allow_remote=True if that is what you want"
            )

    @property
    def seconds_per_token(self) -> float:
        """The pace as seconds from one token to the next; 0 is as fast as possible."""
        if self.tokens_per_second is not None:
            return 1.0 / self.tokens_per_second
        return self.interval or 0.0


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _at_least(lowest: int, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not lowest <= value < float("inf"):
            raise ValueError(f"{name} must be {lowest} or more, and finite, got {value}")
