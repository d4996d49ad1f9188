"""What this package needs, and which dialects and versions of them it speaks."""

from __future__ import annotations

from typing import Final

#: Nothing is needed but the standard library of a supported Python, so that anybody can import it.
REQUIRES: Final[tuple[str, ...]] = ()

#: The wire formats, and the clients with which the tests read them.
SUPPORTED: Final[dict[str, str]] = {
    "ollama": "/api/chat, /api/generate and /api/tags as of August 2026; read with httpx",
    "openai": "/v1/chat/completions and /v1/models; read with httpx and openai 3.x",
    "http": "HTTP/1.1 and HTTP/1.0, keep-alive, chunked bodies both ways; no TLS, no HTTP/2",
}
