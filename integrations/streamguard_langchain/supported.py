"""What this package needs, and with which versions of it it is tested."""

from __future__ import annotations

from typing import Final

#: Oldest versions of the libraries of the extra `langchain` with which this package is tested.
REQUIRES: Final[tuple[str, ...]] = ("langchain-core>=1.0.0",)

#: What to type when one of them is missing.
INSTALL: Final = 'pip install "streamguard-llm[langchain]"'

#: What is governed, and what it is tested with.
SUPPORTED: Final[dict[str, str]] = {
    "langchain-core": "any Runnable: stream, astream, transform, invoke, batch, astream_events, astream_log",
    "chat models": "langchain-openai, langchain-anthropic, langchain-ollama with their own clients",
    "langgraph": "compiled graphs, with async and sync nodes; agents of langchain",
}
