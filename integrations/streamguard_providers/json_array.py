"""Items of a JSON array from bytes, as soon as each is whole: linear time, bounded memory."""

from __future__ import annotations

import re
from typing import Final

from streamguard_providers.framing import BOM, MAX_EVENT_BYTES, Framing, fed_after_close

_BLANK: Final = b" \t\r\n"
_QUOTE: Final = 34
_OPENING: Final = (b"{", b"[")

# The possessive repeats never look back, so that hostile bytes cost no more than others do.
_IN_STRING: Final = rb"[^\"\\]*+(?:\\.[^\"\\]*+)*+"
_STRING: Final = rb"\"" + _IN_STRING + rb"\""
_PLAIN: Final = rb"[^\"{}\[\]]*+"


def _nested(depth: int) -> bytes:
    """The pattern of what may stand in brackets, themselves with so many more inside."""
    inner = _STRING
    if depth:
        inner += rb"|[{\[]" + _nested(depth - 1) + rb"[}\]]"
    return _PLAIN + rb"(?:(?:" + inner + rb")" + _PLAIN + rb")*+"


#: A whole item and the framing before it. Deeper ones, and pieces, are read bracket by bracket.
_WHOLE: Final = re.compile(rb"[ \t\r\n,]*+([{\[]" + _nested(8) + rb"[}\]])", re.DOTALL)
#: What is left of a string, without its closing quote or a backslash that nothing follows yet.
_STRING_REST: Final = re.compile(_IN_STRING, re.DOTALL)
#: Everything up to and with the next bracket inside an item; whole strings are passed over.
_NESTED: Final = re.compile(_nested(0) + rb"([{}\[\]])?", re.DOTALL)
#: The same between items, where a comma ends an item too.
_BETWEEN: Final = re.compile(
    rb"[^\",{}\[\]]*+(?:" + _STRING + rb"[^\",{}\[\]]*+)*+([,{}\[\]])?", re.DOTALL
)


class JSONArrayDecoder(Framing):
    r"""Turns the bytes of one JSON array into its items; how they are cut makes no difference.

    An item is handed over with its last byte, without waiting for the comma. What is between items
    is framing. A body that is no array but an object (or one after another) is handed over as if
    its objects stood in one. Items are not checked: what is no JSON is for the dialect to skip.

    Args:
        max_item_bytes: largest item.

    Raises:
        UsageError: when the limit is not positive.

    Example:
        >>> JSONArrayDecoder().feed(b'[{"a":"]}"}\r\n,{"b":')
        [b'{"a":"]}"}']
    """

    __slots__ = ("_base", "_depth", "_ended", "_escaped", "_in_string", "_start")

    def __init__(self, max_item_bytes: int = MAX_EVENT_BYTES) -> None:
        super().__init__(max_item_bytes, "max_item_bytes")
        self._start: bytes | None = b""
        """What came before the first byte that says array or not; None once that is decided."""
        self._base = 0
        """The depth between items: 1 inside an array, 0 where there is none."""
        self._depth = 0
        self._in_string = False
        self._escaped = False
        """The last byte was a backslash in a string: the next one means nothing."""
        self._ended = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in and return the items they complete.

        Raises:
            EventTooLarge: when an item passes the limit; the decoder is closed then.
            UsageError: when the decoder is closed.
        """
        if self._closed:
            raise fed_after_close()
        self.offset += len(data)
        if self._start is not None:
            data = self._opened(data)
        items: list[bytes] = []
        if data and not self._ended:
            rest = self._split(data, items)
            if rest < len(data):
                self._keep(data[rest:])
        return items

    def close(self) -> list[bytes]:
        """The stream has ended: say whether it was whole. An unfinished item is dropped."""
        if self._closed:
            return []
        self._closed = True
        self.truncated = bool(self._tail)
        self.unterminated = self._base == 1 and not self._ended
        self._tail.clear()
        return []

    def _opened(self, data: bytes) -> bytes:
        """Pass over what may stand before the body, and see whether it is an array."""
        start = (self._start or b"") + data
        if len(start) < len(BOM) and BOM.startswith(start):
            self._start = start
            return b""
        body = start.removeprefix(BOM).lstrip(_BLANK)
        if not body:
            # One blank says as much as many; a byte order mark after it is none.
            self._start = b" "
            return b""
        self._start = None
        if body.startswith(b"["):
            self._base = self._depth = 1
            return body[1:]
        return body

    def _split(self, data: bytes, items: list[bytes]) -> int:
        """Cut the items out and return where the unfinished one begins."""
        begin = 0
        at = self._string(data, 0) if self._in_string else 0
        while at < len(data):
            between = self._depth == self._base
            if between and at == begin and not self._tail:
                whole = _WHOLE.match(data, at)
                if whole is not None:
                    begin = at = self._item(whole[1], whole.end(), items)
                    continue
            found = (_BETWEEN if between else _NESTED).match(data, at)
            assert found is not None  # both match nothing at all, too
            at = found.end()
            if found[1] is None:
                if at < len(data):
                    # Only a string whose end is not here yet stops the search before the end.
                    self._in_string = True
                    at = self._string(data, at + 1)
            elif found[1] in _OPENING:
                self._depth += 1
            elif not between:
                self._depth -= 1
                if self._depth == self._base:
                    begin = self._item(data[begin:at], at, items)
            elif found[1] == b",":
                begin = self._item(data[begin : at - 1], at, items)
            elif self._base and found[1] == b"]":
                self._ended = True
                return self._item(data[begin : at - 1], len(data), items)
        return begin

    def _string(self, data: bytes, at: int) -> int:
        """Go on inside a string and return where it, or the data, ends."""
        if self._escaped and at < len(data):
            self._escaped = False
            at += 1
        rest = _STRING_REST.match(data, at)
        assert rest is not None
        end = rest.end()
        if end == len(data):
            return end
        if data[end] == _QUOTE:
            self._in_string = False
        else:
            self._escaped = True
        return end + 1

    def _item(self, piece: bytes, at: int, items: list[bytes]) -> int:
        """Hand over an item whose last piece this is; blanks are none. Returns where it ends."""
        if self._tail:
            piece = self._joined(piece)
        item = piece.strip(_BLANK)
        if len(item) > self._max:
            self._refuse()
        if item:
            items.append(item)
        return at

    def _keep(self, piece: bytes) -> None:
        super()._keep(piece if self._tail else piece.lstrip(_BLANK))
