"""Who is told of a receipt."""

from __future__ import annotations

from collections.abc import Callable

from streamguard_core import Notice, Observer, Receipt, Sealed

OnReceipt = Callable[[Receipt], None]
"""Called with the receipt of each stream, once, in whatever thread that has ended."""


def telling(on_receipt: Callable[[Receipt], object]) -> Observer:
    """An observer that calls `on_receipt`."""

    def told(notice: Notice) -> None:
        if isinstance(notice, Sealed):
            on_receipt(notice.receipt)

    return told
