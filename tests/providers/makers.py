"""Producers of every framing, made for a server at a URL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamguard_core import CountSource, Usage
from streamguard_providers import (
    AnthropicProducer,
    GeminiProducer,
    OllamaProducer,
    OpenAIProducer,
)

Make = Callable[..., Any]
"""Makes a producer that calls the server at a URL."""


# Unless they say otherwise, the tests look at one call: its producer does not try again.
ONCE: dict[str, Any] = {"retries": 0}


def openai_producer(url: str, **options: Any) -> OpenAIProducer:
    """A producer of a chat completion, at a server's root."""
    options = ONCE | options
    return OpenAIProducer("m", prompt="Tell me about the river.", base_url=f"{url}/v1", **options)


def responses_producer(url: str, **options: Any) -> OpenAIProducer:
    """A producer of a response of OpenAI's."""
    return openai_producer(url, api="responses", **options)


def completions_producer(url: str, **options: Any) -> OpenAIProducer:
    """A producer of a text completion."""
    return openai_producer(url, api="completions", **options)


def chat_producer(url: str, **options: Any) -> OllamaProducer:
    """A producer of a chat of Ollama's."""
    messages = [{"role": "user", "content": "Tell me about the river."}]
    return OllamaProducer("m", messages=messages, base_url=url, **ONCE | options)


def generate_producer(url: str, **options: Any) -> OllamaProducer:
    """A producer of a completion of Ollama's."""
    return OllamaProducer("m", "Tell me about the river.", base_url=url, **ONCE | options)


def anthropic_producer(url: str, **options: Any) -> AnthropicProducer:
    """A producer of a message of Anthropic's."""
    return AnthropicProducer("m", prompt="Tell me about the river.", base_url=url, **ONCE | options)


def gemini_producer(url: str, **options: Any) -> GeminiProducer:
    """A producer of an answer of Gemini's, as server-sent events."""
    options = {"prompt": "Tell me about the river."} | ONCE | options
    return GeminiProducer("m", base_url=f"{url}/v1beta", **options)


def array_producer(url: str, **options: Any) -> GeminiProducer:
    """The same as one JSON array."""
    return gemini_producer(url, sse=False, **options)


EVERY: dict[Make, str] = {
    openai_producer: "openai",
    chat_producer: "chat",
    generate_producer: "generate",
    anthropic_producer: "anthropic",
    gemini_producer: "gemini",
    array_producer: "gemini array",
    responses_producer: "responses",
    completions_producer: "completions",
}
"""All of them, with the names their tests have."""

LIMIT_WORDS = ("length", "max_tokens", "MAX_TOKENS", "incomplete")
"""What providers say when an answer has reached the most tokens that were asked for."""


def no_truth(usage: Usage | None) -> bool:
    """Whether a usage claims nothing final about the output: what Anthropic says first is a placeholder."""
    return usage is None or usage.output.source is not CountSource.PROVIDER_FINAL
