"""Undoes a response's content-encoding, for counting only: what the application reads stays as it is."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

Inflate = Callable[[bytes], Iterator[bytes]]
"""Takes encoded bytes in, at least one, and yields decoded ones, in pieces of bounded size."""

#: A piece of decoded bytes is at most this long, or (br, zstd) comes from this much input.
_PIECE: Final = 64 * 1024
_SLICE: Final = 4 * 1024


def inflate_for(encoding: str) -> Inflate | None:
    """The way to undo a `content-encoding`; None where there is none that we know.

    Args:
        encoding: the header's value, in lower case.
    """
    make = _MAKERS.get(encoding)
    return None if make is None else make()


def _gzip() -> Inflate:
    return _with_zlib(zlib.decompressobj(zlib.MAX_WBITS | 16))


def _deflate() -> Inflate:
    """Deflate is meant to be wrapped in zlib's format, and often is not."""
    ways: list[Inflate] = []

    def inflate(data: bytes) -> Iterator[bytes]:
        if not ways:
            wrapped = data[0] & 0x0F == 0x08
            bits = zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS
            ways.append(_with_zlib(zlib.decompressobj(bits)))
        yield from ways[0](data)

    return inflate


def _with_zlib(state: Any) -> Inflate:
    def inflate(data: bytes) -> Iterator[bytes]:
        while data:
            piece = state.decompress(data, _PIECE)
            if piece:
                yield piece
            data = state.unconsumed_tail

    return inflate


def _brotli() -> Inflate | None:
    """With the library that httpx uses, so that it is there when a server was told it may send it."""
    for name in ("brotli", "brotlicffi"):
        module = _library(name)
        if module is not None:
            state = module.Decompressor()
            return _sliced(getattr(state, "decompress", None) or state.process)
    return None


def _zstd() -> Inflate | None:
    for name in ("compression.zstd", "backports.zstd", "zstandard"):
        module = _library(name)
        if module is not None:
            state = module.ZstdDecompressor()
            # zstandard's own object takes whole documents only.
            stream = state.decompressobj() if hasattr(state, "decompressobj") else state
            return _sliced(stream.decompress)
    return None


def _sliced(decompress: Callable[[bytes], bytes]) -> Inflate:
    """These know no bound on what one call may return: they get their input in small slices."""

    def inflate(data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), _SLICE):
            piece = decompress(data[at : at + _SLICE])
            if piece:
                yield piece

    return inflate


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_MAKERS: Final[dict[str, Callable[[], Inflate | None]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
