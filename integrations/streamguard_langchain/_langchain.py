"""The one place where this package imports its framework, with the line that installs it."""

from __future__ import annotations

from streamguard_langchain.supported import INSTALL

try:
    from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult
    from langchain_core.runnables import Runnable, RunnableConfig
    from langchain_core.runnables.base import RunnableBindingBase, coerce_to_runnable
    from langchain_core.runnables.config import ensure_config
    from langchain_core.runnables.utils import Input, Output
except ImportError as error:
    raise ImportError(f"streamguard_langchain needs langchain-core: {INSTALL}") from error

__all__ = [
    "BaseCallbackHandler",
    "BaseCallbackManager",
    "BaseMessage",
    "Input",
    "LLMResult",
    "Output",
    "Runnable",
    "RunnableBindingBase",
    "RunnableConfig",
    "coerce_to_runnable",
    "ensure_config",
]
