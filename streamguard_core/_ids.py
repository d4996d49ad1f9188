"""Names of streams."""

from __future__ import annotations

import os
import time
from typing import Final

_VARIANT: Final = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def new_stream_id() -> str:
    """A fresh UUIDv7-shaped id: 48 bits of milliseconds, then random bits."""
    stamp, chance = f"{time.time_ns() // 1_000_000:012x}", os.urandom(10).hex()
    # Version 7 and the variant stand in two hexadecimal digits, of which the variant leaves two bits to chance.
    return f"{stamp[:8]}-{stamp[8:]}-7{chance[:3]}-{_VARIANT[chance[3]]}{chance[4:7]}-{chance[8:]}"
