"""What this package needs, and with which versions of it it is tested."""

from __future__ import annotations

from typing import Final

#: Oldest versions of the libraries of the extra `django` with which this package is tested.
REQUIRES: Final[tuple[str, ...]] = ("django>=5.2",)

#: What to type when one of them is missing.
INSTALL: Final = 'pip install "streamguard-llm[django]"'

#: What is governed, and what it is tested with.
SUPPORTED: Final[dict[str, str]] = {
    "asgi": "views and iterators of either kind, any mixture of sync and async middleware",
    "wsgi": "the same; a reader who leaves is seen at once where the server shows its socket (gunicorn)",
}
