"""What the tests of LangChain share: the real chat models on a loopback engine, and readers that leave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from streamguard_testing import LoopbackEngine

# The oldest versions that we support are tested without the models, of which none goes with all of them.
pytest.importorskip("langchain_openai")

from langchain_anthropic import ChatAnthropic
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI

QUESTION = "Tell me about the river."
LEAD = 6
"""How many tokens an engine makes at once, before it becomes slow."""


def slow_engine(interval: float = 30.0, **options: Any) -> LoopbackEngine:
    """An engine whose readers are in the middle of its answer, for as long as they like.

    Args:
        interval: seconds between two tokens, behind the first `LEAD`.
        options: as for any.
    """
    return LoopbackEngine(lead=LEAD, interval=interval, **options)


def openai(engine: Any, **options: Any) -> ChatOpenAI:
    """OpenAI's chat model, on its own client."""
    given: dict[str, Any] = {"api_key": "k", "model": "m", "max_tokens": 500, "max_retries": 0}
    given |= {"stream_usage": True} | options
    return ChatOpenAI(base_url=engine.openai_url, **given)


def anthropic(engine: Any, **options: Any) -> ChatAnthropic:
    """Anthropic's, on its own client."""
    given: dict[str, Any] = {"api_key": "k", "model": "m", "max_tokens": 500, "max_retries": 0}
    return ChatAnthropic(base_url=engine.url, **(given | options))


def ollama(engine: Any, **options: Any) -> ChatOllama:
    """Ollama's, on its own client."""
    given: dict[str, Any] = {"model": "m", "num_predict": 500}
    return ChatOllama(base_url=engine.url, **(given | options))


MODELS: dict[str, Callable[..., Any]] = {
    "openai": openai,
    "anthropic": anthropic,
    "ollama": ollama,
}


async def read(stream: AsyncIterator[Any], chunks: int) -> list[Any]:
    """Read so many chunks of a stream, and leave it."""
    found: list[Any] = []
    async with aclosing(stream) as left:  # type: ignore[type-var]
        async for chunk in left:
            found.append(chunk)
            if len(found) == chunks:
                break
    return found


async def keep(stream: AsyncIterator[Any], found: list[Any]) -> None:
    """Read a stream to its end, and keep what has come until now."""
    async for chunk in stream:
        found.append(chunk)  # noqa: PERF401 - the test looks at it meanwhile
