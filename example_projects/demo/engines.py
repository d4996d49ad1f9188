"""What the demo runs against: the loopback engine, which counts exactly, or a real one behind a relay."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import httpx
from relay import Relay

from streamguard_testing import Fault, RunningEngine, run_engine

PACE = 80.0
"""Tokens per second of the loopback engine: a middling model."""
THINKING = 4.0
"""Seconds of the loopback engine's silence, without headers, in the phase before the first token."""
POLL = 0.02
LOADING = 300.0
"""Seconds a real engine may take to load its model."""


@dataclass(frozen=True)
class Seen:
    """What one call cost after its reader had left."""

    burnt: int
    """Tokens generated after the reader had left."""
    let_go: float | None
    """Seconds until the engine's connection was let go; None when it never was."""


class Engine(Protocol):
    """An engine under observation."""

    url: str
    exact: bool

    def think(self, seconds: float) -> None:
        """Answer nothing, not even headers, for that long; as far as the engine can be told to."""

    def started(self, call: str) -> bool:
        """Whether a call of this name has reached the engine."""

    async def watch(self, call: str, left_at: float, patience: float) -> Seen:
        """Wait until the call is over (or patience is), and say what it cost."""


class Loopback:
    """The loopback engine: it says itself what it generated and when it noticed."""

    exact = True

    def __init__(self, engine: RunningEngine) -> None:
        self._engine = engine
        self.url = engine.url

    def think(self, seconds: float) -> None:
        """Hold the headers back."""
        self._engine.set_fault(Fault(header_delay=seconds))

    def started(self, call: str) -> bool:
        """Whether the engine knows the call."""
        return any(request.id == call for request in self._engine.requests)

    async def watch(self, call: str, left_at: float, patience: float) -> Seen:
        """Until the engine has ended the request."""
        deadline = time.monotonic() + patience
        while (request := self._engine.request(call)).ended_at is None:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL)
        burnt = self._engine.generated_after(call, left_at)
        ends = [at for at in (request.noticed_at, request.connection_closed_at) if at is not None]
        return Seen(burnt, max(0.0, min(ends) - left_at) if ends else None)


class Real:
    """Any server that speaks OpenAI's chat completions, seen through a relay."""

    exact = False

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.url = relay.url

    def think(self, seconds: float) -> None:
        """A real engine thinks as long as it does."""

    def started(self, call: str) -> bool:
        """Whether the call has passed the relay."""
        return self._relay.call(call) is not None

    async def watch(self, call: str, left_at: float, patience: float) -> Seen:
        """Until the application has let the connection go."""
        deadline = time.monotonic() + patience
        seen = self._relay.call(call)
        # The relay lives in another thread.
        while seen is not None and seen.closed_at is None and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL)
        if seen is None:
            return Seen(0, None)
        burnt = sum(1 for at in seen.token_instants if at > left_at)
        return Seen(burnt, None if seen.closed_at is None else max(0.0, seen.closed_at - left_at))


class NotAnEngine(Exception):
    """What was named as the engine does not answer as one; the text says what to look at."""


def check(url: str, model: str) -> None:
    """Ask a real engine for one token: it is there, it has the model, and the model is loaded.

    Raises:
        NotAnEngine: when it is not so.
    """
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    if parts.scheme != "http" or not parts.hostname or path not in ("", "/v1"):
        raise NotAnEngine(
            f"{url!r} is no address that the demo can watch; give http://HOST:PORT, without TLS"
        )
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "hello"}]}
    asked = f"{url} was asked for one token of the model {model!r}"
    try:
        answer = httpx.post(
            f"http://{parts.netloc}/v1/chat/completions",
            json=body,
            timeout=httpx.Timeout(LOADING, connect=5),
        )
    except httpx.HTTPError as error:
        raise NotAnEngine(
            f"{asked} and did not answer ({type(error).__name__}: {error});"
            " is it running, and is ENGINE its address?"
        ) from None
    if answer.status_code != 200:
        said = " ".join(answer.text[:300].split())
        raise NotAnEngine(
            f"{asked} and answered with status {answer.status_code}: {said}\n"
            "check ENGINE (Ollama, or any server that speaks OpenAI's chat completions) and MODEL"
        )


@contextlib.contextmanager
def engine_at(url: str | None) -> Iterator[Engine]:
    """The engine at `url`, or a loopback engine when there is none."""
    if url is None:
        with run_engine(tokens_per_second=PACE) as engine:
            yield Loopback(engine)
    else:
        with Relay(url) as relay:
            yield Real(relay)
