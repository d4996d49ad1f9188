"""Who answers: the engine that was asked for, or a loopback engine in a thread of this process."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from streamguard_providers import OllamaProducer, OpenAIProducer
from streamguard_testing import run_engine

MAX_TOKENS = 400

Producer = OllamaProducer | OpenAIProducer


@dataclass(frozen=True, slots=True)
class Engine:
    """Who answers.

    Attributes:
        url: its address; one that ends in `/v1` is OpenAI-compatible, any other is Ollama.
        model: the model's name.
        name: for people.
    """

    url: str
    model: str
    name: str

    def described(self, server: str, admin: str | None = None) -> dict[str, Any]:
        """What the page says of it.

        Args:
            server: what serves the page.
            admin: where else receipts are to be seen.
        """
        return {"name": self.name, "model": self.model, "server": server, "admin": admin}

    @property
    def kind(self) -> type[Producer]:
        """What makes the calls to it."""
        return OpenAIProducer if self.url.endswith("/v1") else OllamaProducer

    def ask(self, messages: list[dict[str, Any]]) -> Producer:
        """Prepare one call; it is made when the stream is read, and closed when the reader leaves."""
        return self.kind(self.model, messages=messages, base_url=self.url, max_tokens=MAX_TOKENS)


@contextlib.contextmanager
def engine_at(url: str | None, model: str | None) -> Iterator[Engine]:
    """The engine that was asked for, or a loopback engine in a thread of this process."""
    if url is None:
        with run_engine(tokens_per_second=25, first_token_delay=0.8, answer_tokens=160) as loopback:
            yield Engine(url=loopback.url, model=model or "loopback", name="loopback engine")
        return
    yield engine_there(url, model)


def engine_there(url: str, model: str | None, *, option: str = "--engine") -> Engine:
    """The engine at an address, with its first model where none is named. Ends the program if there is none.

    Args:
        url: the address.
        model: the model's name.
        option: of the command line, by which the address was given.
    """
    url = url.rstrip("/")
    return Engine(url=url, model=model or _first_model(url, option), name=url)


def _first_model(url: str, option: str) -> str:
    path = "/models" if url.endswith("/v1") else "/api/tags"
    try:
        offered = httpx.get(url + path, timeout=10).raise_for_status().json()
        first = (offered.get("data") or offered.get("models"))[0]
        return str(first.get("id") or first["name"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
        sys.exit(
            f"main.py: {url} was asked for its models and did not name one ({type(error).__name__});"
            f" check {option}, or name one with --model"
        )
