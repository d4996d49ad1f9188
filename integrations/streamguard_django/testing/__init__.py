"""Tools for testing a Django project: do its views stop when their reader leaves, and what do the receipts say?

For pytest and for unittest, sync and async; nothing is mocked, and no server is needed.
"""

from streamguard_django.testing.clients import AsyncStreamClient, StreamClient
from streamguard_django.testing.receipts import Receipts, assert_ended, collect_receipts
from streamguard_django.testing.responses import AsyncStreamedResponse, StreamedResponse

__all__ = [
    "AsyncStreamClient",
    "AsyncStreamedResponse",
    "Receipts",
    "StreamClient",
    "StreamedResponse",
    "assert_ended",
    "collect_receipts",
]
