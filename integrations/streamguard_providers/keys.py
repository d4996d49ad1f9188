"""Keys and further headers: checked once, shown never."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from streamguard_core import UsageError

#: What RFC 9110 allows in a field value, less what is not ASCII. An HTTP library that meets
#: anything else quotes it in its error, and with it the key.
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Secret:
    """A header's value, kept out of every repr."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "<secret>"

    def reveal(self) -> str:
        """The value itself, for the header it goes into."""
        return self._value


def key_header(key: str | None, name: str = "authorization") -> dict[str, Secret]:
    """The header a key goes into; none without a key.

    Args:
        key: the key.
        name: the provider's header. In `authorization` a key stands behind the word Bearer.

    Raises:
        UsageError: when no header can carry the key.
    """
    if not key:
        return {}
    if not _VALUE.fullmatch(key):
        raise UsageError(
            f"the key for {name} holds a character that no header can carry (often a line end, or"
            " the blank before it); pass the key alone"
        )
    return {name: Secret(f"Bearer {key}" if name == "authorization" else key)}


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, Secret]:
    """Further headers, by names in lower case; they may hold keys as well.

    Raises:
        UsageError: when one of them is no HTTP header.
    """
    checked = {}
    for name, value in (headers or {}).items():
        if not _NAME.fullmatch(name):
            raise UsageError("headers was given a name that is no HTTP header's")
        if value and not _VALUE.fullmatch(value):
            raise UsageError(f"headers[{name!r}] holds a character that no header can carry")
        checked[name.lower()] = Secret(value)
    return checked


def checked_url(url: str) -> str:
    """A base URL, without its last slash.

    Raises:
        UsageError: when it is no HTTP URL, or holds a password, which logs would show.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError("base_url must begin with http:// or https://")
    if "@" in urlsplit(url).netloc:
        raise UsageError("base_url holds a user or password, which logs would show; use headers")
    return url.rstrip("/")
