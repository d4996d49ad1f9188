"""What this package needs, which versions of it are tested, and which wire formats it reads."""

from __future__ import annotations

from typing import Final

INSTALL: Final = 'pip install "streamguard-llm[providers]"'

#: Packages this one needs beside the core, with the oldest versions that are tested.
REQUIRES: Final[tuple[str, ...]] = ("httpx>=0.28",)

#: What is read and governed. httpx2 is not needed; where it is installed, the transports serve it
#: as well.
SUPPORTED: Final[dict[str, str]] = {
    "httpx": "0.28",
    "httpx2": "2.x, which openai 3.x is built on",
    "openai": "chat completions as server-sent events, and the servers that imitate them",
    "anthropic": "messages as server-sent events",
    "gemini": "streamGenerateContent as server-sent events or as an array, at Google AI and Vertex AI",
    "ollama": "/api/chat and /api/generate as NDJSON",
}

try:
    import httpx  # noqa: F401 - said here once, in words, for every module below
except ImportError as error:
    raise ImportError(f"streamguard_providers needs httpx: {INSTALL}") from error
