"""Runs llama.cpp's own HTTP server and reads from it, exactly, how many tokens it generated.

The server runs in a process of its own, on one thread, so that a small test machine keeps a
core for the application under test. How it counts, found by trial:

* `/slots` gives `n_decoded` of every *running* request, exact at each decoding step, and 0 as
  soon as the request has ended;
* `/metrics` gives `tokens_predicted_total`, to which a request is added in full when it ends,
  whether it was answered or cancelled;
* a slot whose request has ended still shows the tokens it holds, prompt and answer together,
  until the next request takes it;
* the server answers between two decoding steps, so the sum of the first two is exact unless a
  request ended between the two answers, which a second look at the total reveals.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from .processes import ServerProcess, wait_until

COUNT_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class Slot:
    """One of the engine's places: what it generates for a request, or did for the last one.

    Args:
        number: The slot's own number.
        task: The engine's number of the request; None where it never had one.
        busy: Whether the request is still being worked on.
        max_tokens: What the request asked for; tells requests of one wave apart.
        decoded: Tokens generated so far; the engine says 0 once the request has ended.
        held: Tokens in the slot's memory, prompt and answer; stays after the end.
    """

    number: int
    task: int | None
    busy: bool
    max_tokens: int
    decoded: int
    held: int


@dataclass(frozen=True, slots=True)
class Counters:
    """What the engine has counted since it started, and what it is doing now."""

    generated_by_ended: int
    prompt_tokens: int
    processing: int
    waiting: int


class LlamaServer:
    """A running llama.cpp server; a context manager that stops it.

    Args:
        model: The GGUF file.
        slots: How many requests it works on at a time; the others wait their turn.
        context: Tokens that one slot can hold.
        threads: Computing threads.
    """

    def __init__(
        self, model: Path, *, slots: int = 4, context: int = 4096, threads: int = 1
    ) -> None:
        script = Path(__file__).with_name("serve_model.py")
        arguments = (f"--slots={slots}", f"--context={context}", f"--threads={threads}")
        self.slot_count = slots
        self._process = ServerProcess(script, [str(model), *arguments])
        self.url = self._process.url
        self._client = httpx.Client(base_url=self.url, timeout=60.0, trust_env=False)
        wait_until(self.healthy, "the engine's /health", seconds=30.0)

    @property
    def port(self) -> int:
        """The port the server listens on, on 127.0.0.1."""
        port = httpx.URL(self.url).port
        assert port is not None
        return port

    def healthy(self) -> bool:
        """Whether the model is loaded and the server answers."""
        return self._client.get("/health").status_code == httpx.codes.OK

    def slots(self) -> tuple[Slot, ...]:
        """Every slot, as it was between two decoding steps."""
        return tuple(_slot(entry) for entry in self._client.get("/slots").json())

    def counters(self) -> Counters:
        """The engine's counters, as they were between two decoding steps."""
        values = dict(
            line.removeprefix("llamacpp:").split()[:2]
            for line in self._client.get("/metrics").text.splitlines()
            if line.startswith("llamacpp:")
        )
        return Counters(
            generated_by_ended=int(float(values["tokens_predicted_total"])),
            prompt_tokens=int(float(values["prompt_tokens_total"])),
            processing=int(float(values["requests_processing"])),
            waiting=int(float(values["requests_deferred"])),
        )

    def generated(self) -> int:
        """Tokens generated since the server started, by ended and running requests alike.

        Call it twice and subtract: the tokens generated between two instants.

        Raises:
            RuntimeError: When requests end so often that no look at all of them succeeds.
        """
        ended = self.counters().generated_by_ended
        for _ in range(COUNT_ATTEMPTS):
            running = sum(slot.decoded for slot in self.slots() if slot.busy)
            before, ended = ended, self.counters().generated_by_ended
            if before == ended:
                return ended + running
        raise RuntimeError(f"counting tokens: requests ended during {COUNT_ATTEMPTS} looks")

    def idle(self) -> bool:
        """Whether no request is being worked on and none waits."""
        now = self.counters()
        return not now.processing and not now.waiting

    def wait_idle(self, *, seconds: float = 120.0) -> None:
        """Wait until every request has ended, however it did."""
        wait_until(self.idle, "the engine to be idle", seconds=seconds, every=0.02)

    def log(self) -> str:
        """What the server has logged so far."""
        return self._process.log()

    def stop(self) -> None:
        """Stop the server, whatever it is doing."""
        self._client.close()
        self._process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _slot(entry: dict[str, Any]) -> Slot:
    """Read one entry of `/slots`; a slot that was never used lacks most fields."""
    following = entry.get("next_token") or [{}]
    return Slot(
        number=entry["id"],
        task=entry.get("id_task"),
        busy=entry["is_processing"],
        max_tokens=entry.get("params", {}).get("max_tokens", 0),
        decoded=following[0].get("n_decoded", 0),
        held=entry.get("n_prompt_tokens", 0),
    )
