"""Faults and settings: what is impossible is refused, with a text that says why."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from streamguard_testing import (
    FAULT_HEADER,
    Cut,
    EngineOptions,
    EngineSettings,
    Fault,
    LoopbackEngine,
    Usage,
)


def test_header_and_back() -> None:
    """What a fault writes into a header is read back as the same fault."""
    fault = Fault(cut_after=3, cut=Cut.RESET, usage=Usage.LATE, ignore_close=True)
    header = fault.to_header()
    assert json.loads(header[FAULT_HEADER]).keys() == {"cut_after", "cut", "usage", "ignore_close"}
    assert Fault.from_json(header[FAULT_HEADER]) == fault


def test_a_request_overrides_the_server() -> None:
    """What a request does not name stays as the server has it."""
    base = Fault(header_delay=1.0, usage=Usage.NEVER)
    assert Fault.from_json('{"header_delay": 0}', base) == Fault(usage=Usage.NEVER)


def test_a_break_replaces_any_other_break() -> None:
    """A request that chooses where its response breaks off has only that one."""
    assert Fault.from_json('{"stall_after": 2}', Fault(cut_after=9)) == Fault(stall_after=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "is a JSON object"),
        ("[1]", "is a JSON object"),
        ("[" * 100_000, "is a JSON object"),
        ('{"cut_off": 1}', "no such fault: cut_off; there are"),
        ('{"cut_after": -1}', "cut_after must not be negative"),
        ('{"cut_after": 1.5}', "cut_after must be int or null, got float"),
        ('{"cut_after": true}', "cut_after must be int or null, got bool"),
        ('{"header_delay": Infinity}', "header_delay must not be negative or infinite"),
        ('{"header_delay": NaN}', "header_delay must not be negative or infinite"),
        ('{"header_delay": null}', "header_delay must be int or float, got NoneType"),
        ('{"ignore_close": 1}', "ignore_close must be bool, got int"),
        ('{"cut": "gently"}', "cut must be one of clean, abrupt, reset"),
        ('{"usage": 3}', "usage must be one of normal, late, never"),
        ('{"status": 200}', "status must be an error status"),
        ('{"cut_after": 1, "stall_after": 1}', "give one of stall_after and cut_after"),
    ],
)
def test_impossible_faults_are_refused(text: str, message: str) -> None:
    """A fault that does not exist, or cannot be, is refused by name."""
    with pytest.raises(ValueError, match=message):
        Fault.from_json(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens_per_second": 0}, "tokens_per_second must be greater than 0"),
        ({"tokens_per_second": -3}, "tokens_per_second must be greater than 0"),
        ({"tokens_per_second": 1, "interval": 1}, "tokens_per_second or interval, not both"),
        ({"interval": -1}, "interval must be 0 or more"),
        ({"interval": float("nan")}, "interval must be 0 or more"),
        ({"first_token_delay": -1}, "first_token_delay must be 0 or more"),
        ({"burst": 0}, "burst must be 1 or more"),
        ({"slots": 0}, "slots must be 1 or more"),
        ({"answer_tokens": 0}, "answer_tokens must be 1 or more"),
        ({"max_unsent_bytes": 0}, "max_unsent_bytes must be 1 or more"),
        ({"port": 65536}, "port must be from 0 to 65535"),
        ({"host": "0.0.0.0"}, "can be reached from other machines"),
        ({"host": "example.org"}, "can be reached from other machines"),
    ],
)
def test_impossible_settings_are_refused(options: Any, message: str) -> None:
    """An engine that cannot be is refused before it listens."""
    with pytest.raises(ValueError, match=message):
        LoopbackEngine(**options)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_hosts_are_taken(host: str) -> None:
    """Hosts that only this machine can reach need no permission; others need one."""
    assert LoopbackEngine(host=host).settings.host == host
    assert LoopbackEngine(host="0.0.0.0", allow_remote=True).settings.host == "0.0.0.0"


def test_options_are_the_settings() -> None:
    """The keywords of the engine are the fields of its settings, with the same types."""
    hints = get_type_hints(EngineSettings)
    assert get_type_hints(EngineOptions) == {
        field.name: hints[field.name] for field in fields(EngineSettings)
    }
