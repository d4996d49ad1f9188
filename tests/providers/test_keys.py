"""Keys and headers: refused without being shown when no header can carry them."""

from __future__ import annotations

import traceback

import pytest

from streamguard_core import UsageError
from streamguard_providers import OllamaProducer, OpenAIProducer
from streamguard_providers.keys import Secret, checked_url, key_header

BAD = ["sk-secret\n", " sk-secret", "sk-sec\u200bret", "sk-sec\rret", "schlüssel-secret"]


@pytest.mark.parametrize("key", BAD)
def test_a_key_that_no_header_can_carry(key: str) -> None:
    """It is refused when the producer is made, because HTTP libraries quote it in their errors."""
    with pytest.raises(UsageError, match="no header can carry") as caught:
        OllamaProducer("m", "a", api_key=key)
    said = "".join(traceback.format_exception(caught.value))
    assert "secret" not in said.replace("test_a_key", "")


@pytest.mark.parametrize("value", BAD)
def test_a_header_that_cannot_be_sent(value: str) -> None:
    """The same holds for further headers, in which keys are passed as well."""
    with pytest.raises(UsageError, match=r"headers\['x-key'\]") as caught:
        OpenAIProducer("m", prompt="a", base_url="http://server/v1", headers={"x-key": value})
    assert "secret" not in str(caught.value)
    with pytest.raises(UsageError, match="no HTTP header"):
        OllamaProducer("m", "a", headers={"x secret": "b"})


def test_where_a_key_goes() -> None:
    """Into `authorization` behind the word Bearer, into any other header alone."""
    assert key_header(None) == {} == key_header("")
    (bearer,) = key_header("k").items()
    assert (bearer[0], bearer[1].reveal()) == ("authorization", "Bearer k")
    (plain,) = key_header("k", "x-api-key").items()
    assert (plain[0], plain[1].reveal()) == ("x-api-key", "k")
    assert "k" not in repr(Secret("k")).replace("<secret>", "")


def test_a_url_without_secrets() -> None:
    """A base URL is one of HTTP, and holds no password, which the libraries would log."""
    assert checked_url("http://server/v1/") == "http://server/v1"
    with pytest.raises(UsageError, match="http://"):
        checked_url("server/v1")
    with pytest.raises(UsageError, match="password") as caught:
        checked_url("https://user:hunter2@server/v1")
    assert "hunter2" not in str(caught.value)
