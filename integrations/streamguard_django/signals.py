"""What a project is told of its streams: `stream_opened` and `stream_sealed`."""

from __future__ import annotations

from typing import Final

from django.dispatch import Signal

stream_opened: Final = Signal()
"""Sent when a response's stream is opened: `request`, `session`. The sender is the class of the session."""

stream_sealed: Final = Signal()
"""Sent once for each receipt: `request` (None where there is none), `receipt`. The sender is `Receipt`.

Receivers are called like those of `send_robust()`: one that raises is logged, and changes nothing. Under
ASGI sync receivers run in the request's thread, where the ORM may be used.
"""
