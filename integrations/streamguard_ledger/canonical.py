"""The canonical JSON subset of records: one value has exactly one spelling in bytes.

Maps with ASCII keys in order, lists, strings, booleans, and integers that every JSON reader keeps
exactly. No floats and no null: a number is exact, and what is unknown is absent. Within this subset
a C encoder's bytes are those of RFC 8785, the JSON Canonicalization Scheme.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from streamguard_core import UsageError

MAX_INT: Final = 2**53 - 1
"""The largest integer that a JSON reader with double precision keeps exactly."""
MAX_DEPTH: Final = 8
"""Maps and lists inside one another; records need four."""

_ENCODER: Final = msgspec.json.Encoder(order="deterministic")


class NotCanonical(UsageError):
    """A value that has no canonical bytes, or bytes that are not the canonical ones."""


def encode(record: dict[str, Any]) -> bytes:
    """The canonical bytes of a record.

    Raises:
        NotCanonical: when it holds what the subset has no place for; says where, never the value.
    """
    if _fits(record, MAX_DEPTH):
        try:
            return _ENCODER.encode(record)
        except UnicodeEncodeError:
            pass
    where, why = next(_faults(record, "", MAX_DEPTH))
    raise NotCanonical(
        f"cannot write {where or 'the record'} into a ledger: it {why};"
        " give ASCII keys, strings, booleans, and integers within +-(2^53-1)"
    )


def decode(body: bytes) -> dict[str, Any]:
    """The record that these bytes spell.

    Raises:
        NotCanonical: when they spell none, or are not the canonical spelling (two equal keys,
            white space, another order, a float).
    """
    record = read(body)
    if not _fits(record, MAX_DEPTH) or _ENCODER.encode(record) != body:
        raise NotCanonical("the bytes are not the canonical ones of what they say")
    return record


def read(body: bytes) -> dict[str, Any]:
    """The record that these bytes spell, canonically or not.

    Raises:
        NotCanonical: when they spell none.
    """
    try:
        record = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError):
        raise NotCanonical("the bytes are not JSON") from None
    if not isinstance(record, dict):
        raise NotCanonical("the bytes are not a JSON object")
    return record


def fitting(record: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    r"""What of a record has canonical bytes, with the paths of what had to be left out.

    Lone surrogates in strings are spelled out (`\ud800`) instead.
    """
    left_out: list[str] = []
    return _fitted(record, "", MAX_DEPTH, left_out), left_out


def _fits(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind is str or kind is bool:
        return True
    if kind is int:
        return bool(-MAX_INT <= value <= MAX_INT)
    if depth == 0:
        return False
    if kind is dict:
        return all(
            type(key) is str and key.isascii() and _fits(item, depth - 1)
            for key, item in value.items()
        )
    return kind is list and all(_fits(item, depth - 1) for item in value)


def _faults(value: Any, where: str, depth: int) -> Iterator[tuple[str, str]]:
    """Every place that does not fit, and why."""
    if type(value) is str:
        if _spelled(value) is not value:
            yield where, "is a string with a lone surrogate"
    elif type(value) is dict and depth:
        for key, item in value.items():
            if type(key) is not str or not key.isascii():
                yield _path(where, key), "has a key that is not ASCII text"
            yield from _faults(item, _path(where, key), depth - 1)
    elif type(value) is list and depth:
        for index, item in enumerate(value):
            yield from _faults(item, _path(where, index), depth - 1)
    elif not _fits(value, depth):
        yield where, _why(value)


def _why(value: Any) -> str:
    if type(value) is int:
        return "is an integer beyond +-(2^53-1)"
    if type(value) in {dict, list}:
        return f"is nested deeper than {MAX_DEPTH} levels"
    return f"is of type {type(value).__name__}"


def _fitted(value: Any, where: str, depth: int, left_out: list[str]) -> Any:
    """A copy without what does not fit; only called on maps, lists and what fits."""
    if type(value) is dict:
        items = [(key, item, _path(where, key)) for key, item in value.items()]
        keep = [(key, item, at) for key, item, at in items if _keeps(key, item, depth)]
        left_out += [at for key, item, at in items if not _keeps(key, item, depth)]
        return {key: _fitted(item, at, depth - 1, left_out) for key, item, at in keep}
    if type(value) is list:
        items = [(index, item, _path(where, index)) for index, item in enumerate(value)]
        left_out += [at for _, item, at in items if not _keeps("", item, depth)]
        return [
            _fitted(item, at, depth - 1, left_out)
            for _, item, at in items
            if _keeps("", item, depth)
        ]
    return _spelled(value) if type(value) is str else value


def _keeps(key: Any, item: Any, depth: int) -> bool:
    """True when an entry can be kept, at least in part."""
    container = type(item) in {dict, list} and depth > 1
    return type(key) is str and key.isascii() and (container or _fits(item, 0))


def _spelled(text: str) -> str:
    """The same text, with lone surrogates spelled out."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text


def _path(where: str, key: object) -> str:
    """Where an entry is; a strange key is shown in ASCII and cut."""
    name = key if isinstance(key, str) and key.isascii() else ascii(key)
    return f"{where}.{name[:64]}" if where else name[:64]
