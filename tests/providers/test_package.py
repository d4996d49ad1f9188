"""The package: what it says when something is missing, and that its examples are true."""

from __future__ import annotations

import doctest
import importlib
import pickle
import pkgutil
import subprocess
import sys

import pytest

import streamguard_providers
from streamguard_providers import EventTooLarge, ProviderError, supported
from streamguard_providers.errors import provider_error

MODULES = [
    f"streamguard_providers.{m.name}" for m in pkgutil.iter_modules(streamguard_providers.__path__)
]


def test_says_what_to_install() -> None:
    """Without httpx the import fails with the line that installs it."""
    code = "import sys; sys.modules['httpx'] = None; import streamguard_providers"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"ImportError: streamguard_providers needs httpx: {supported.INSTALL}"


def test_works_without_httpx2() -> None:
    """httpx2 is not needed, and is not imported before it is used."""
    code = "import sys; sys.modules['httpx2'] = None; import streamguard_providers"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    """The examples in the docstrings do what they say."""
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_public_names_exist() -> None:
    """What `__all__` names is there, in order."""
    names = streamguard_providers.__all__
    assert names == sorted(names)
    assert all(hasattr(streamguard_providers, name) for name in names)


def test_errors_can_be_pickled() -> None:
    """Errors cross processes with what they carry."""
    error = provider_error("p", {"type": "server_error"}, status=503, request_id="r")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, ProviderError)
    assert (str(again), again.status, again.request_id) == (str(error), 503, "r")
    large = pickle.loads(pickle.dumps(EventTooLarge(5, 7)))
    assert (large.limit, large.offset) == (5, 7)


@pytest.mark.parametrize(
    ("reported", "status", "retryable"),
    [
        ({"type": "overloaded_error"}, 529, True),
        ({"error": {"type": "rate_limit_error"}}, 429, True),
        ({"code": "insufficient_quota", "type": "insufficient_quota"}, 429, False),
        ({"code": "503"}, 503, True),
        ({"code": 400, "message": "m"}, 400, False),
        ({"status_code": 400, "code": "tool_use_failed"}, 400, False),
        ("text", None, False),
        (None, None, False),
        ([1], None, False),
    ],
)
def test_what_an_error_means(reported: object, status: int | None, retryable: bool) -> None:
    """Status and retryability are found wherever a provider says them."""
    error = provider_error("p", reported)
    assert (error.status, error.retryable) == (status, retryable)
