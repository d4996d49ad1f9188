"""StreamGuard for LangChain: every run of a model ends with its reader, and leaves a receipt."""

from streamguard_langchain.guard import GuardedRunnable, GuardOptions, guard
from streamguard_langchain.handler import StreamGuardCallbackHandler
from streamguard_langchain.receipts import OnReceipt
from streamguard_langchain.stopping import ChainStopped

__all__ = [
    "ChainStopped",
    "GuardOptions",
    "GuardedRunnable",
    "OnReceipt",
    "StreamGuardCallbackHandler",
    "guard",
]
