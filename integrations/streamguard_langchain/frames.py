"""Whose code runs in a frame: LangChain's, an SDK's, or the application's."""

from __future__ import annotations

from typing import Any, Final

_CHAINS: Final = ("langchain", "langgraph")
"""How the names of LangChain's packages begin: langchain_core, langchain_openai and all others."""
_GUARD: Final = "streamguard_langchain"
_SDKS: Final = frozenset(
    {"anthropic", "ollama", "openai", "httpcore", "httpcore2", "httpx", "httpx2", "httpx_sse"}
)


def is_chain(frame: Any) -> bool:
    """Whether the code is LangChain's, a part of its models' packages, or ours."""
    package = _package(frame)
    return package == _GUARD or package.startswith(_CHAINS)


def is_sdk(frame: Any) -> bool:
    """Whether it is an SDK's below a model, or that of its HTTP client."""
    return _package(frame) in _SDKS


def _package(frame: Any) -> str:
    """The package of a frame; of one that has ended, none."""
    name = "" if frame is None else frame.f_globals.get("__name__")
    return str(name).partition(".")[0]
