"""What the decoders of server-sent events, of lines and of arrays have in common."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streamguard_core import ProducerError, UsageError
from streamguard_providers import EventTooLarge, JSONArrayDecoder, NDJSONDecoder, SSEDecoder

Decoder = SSEDecoder | NDJSONDecoder | JSONArrayDecoder
DECODERS: list[Callable[..., Decoder]] = [SSEDecoder, NDJSONDecoder, JSONArrayDecoder]
LIMIT = 200
TOO_LARGE = [
    (SSEDecoder, b"data: " + b"x" * 300 + b"\n\n"),
    (SSEDecoder, b"data: xxxx\n" * 30 + b"\n\n"),
    (SSEDecoder, b"event: " + b"x" * 300 + b"\n\n"),
    (NDJSONDecoder, b"{" + b" " * 300 + b"}\n"),
    (JSONArrayDecoder, b'[{"a":"' + b"x" * 300),
    (JSONArrayDecoder, b"[" * 300),
    (JSONArrayDecoder, b"[" + b"1" * 300 + b"]"),
]


@pytest.mark.parametrize("size", [1, 50, 100, 10_000])
@pytest.mark.parametrize(("make", "data"), TOO_LARGE)
def test_a_payload_has_a_limit(make: Callable[[int], Decoder], data: bytes, size: int) -> None:
    """Past the limit a decoder refuses with limit and offset, and takes nothing in any more."""
    decoder = make(LIMIT)

    def feed_all() -> None:
        for at in range(0, len(data), size):
            decoder.feed(data[at : at + size])

    with pytest.raises(EventTooLarge) as caught:
        feed_all()
    assert isinstance(caught.value, ProducerError)
    assert caught.value.limit == LIMIT
    assert 0 < caught.value.offset <= len(data)
    assert "200 bytes" in str(caught.value)
    with pytest.raises(UsageError, match=r"after close\(\) or EventTooLarge"):
        decoder.feed(b"[]\n\n")
    assert decoder.close() == []


@pytest.mark.parametrize("make", DECODERS)
def test_closing_is_final(make: Callable[[], Decoder]) -> None:
    """Nothing may be fed after the end, and a second end says nothing."""
    decoder = make()
    assert repr(decoder) == f"<{type(decoder).__name__} open, 0 bytes>"
    decoder.feed(b" ")
    decoder.close()
    assert repr(decoder) == f"<{type(decoder).__name__} closed, 1 bytes>"
    with pytest.raises(UsageError, match=r"after close\(\)"):
        decoder.feed(b"")
    assert decoder.close() == []


@pytest.mark.parametrize("make", DECODERS)
def test_a_limit_is_positive(make: Callable[[int], Decoder]) -> None:
    """A limit that is none is said at once, by its name."""
    with pytest.raises(UsageError, match=r"max_(event|line|item)_bytes=0 was given; .* at least 1"):
        make(0)
