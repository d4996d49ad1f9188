"""Tests of list prices: what the installed genai-prices says, to the last digit, at the time of the call."""

from __future__ import annotations

import doctest
import hashlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot
from hypothesis import given
from hypothesis import strategies as st

from streamguard_core import Count, CountSource, Price, Unpriced, Usage, to_pico
from streamguard_ledger import PriceBook, prices
from streamguard_ledger.prices import GenaiPrices

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
TOKENS = {
    "input_mtok",
    "output_mtok",
    "cache_read_mtok",
    "cache_write_mtok",
    "cache_write_1h_mtok",
    "output_reasoning_mtok",
    "requests_kcount",
}
LISTED = [
    (provider.id, model.id)
    for provider in providers
    for model in provider.models
    if provider.find_model(model.id) is model
    and {"input_mtok", "output_mtok"} <= vars(model.get_prices(NOW)).keys() <= TOKENS
]
"""Models that are paid by text tokens (and calls) only, and are found by their own names."""


def price(
    model: str, *, provider: str | None = "openai", at: datetime = NOW, **tokens: Any
) -> Price:
    """The list price of one call, with numbers that a provider reported."""
    return GenaiPrices().price(provider, model, Usage.reported_by_provider(**tokens), at)


def test_the_examples_are_true() -> None:
    """The docstrings run."""
    assert doctest.testmod(prices).failed == 0


def _rates(listed: Any) -> list[Decimal]:
    """The rates of a row of the list, those of its tiers included."""
    return [
        one
        for value in vars(listed).values()
        if value is not None
        for one in (
            [value]
            if isinstance(value, Decimal)
            else [value.base, *(tier.price for tier in value.tiers)]
        )
    ]


@given(
    st.sampled_from(LISTED),
    st.integers(0, 2_000_000),
    st.integers(0, 1_000_000),
    st.integers(0, 100),
    st.integers(0, 100),
)
def test_a_price_is_that_of_the_list(
    listed: tuple[str, str], whole: int, output: int, cached_percent: int, written_percent: int
) -> None:
    """For any model and any numbers the total is the package's own, and so exact that only its rounding shows."""
    provider, model = listed
    cached = whole * cached_percent // 200
    written = whole * written_percent // 200
    expected = genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=whole,
            output_tokens=output,
            cache_read_tokens=cached,
            cache_write_tokens=written,
            output_reasoning_tokens=0,
        ),
        model,
        provider_id=provider,
        genai_request_timestamp=NOW,
    )
    said = price(
        model,
        provider=provider,
        input=whole,
        output=output,
        cached_input=cached,
        cache_write=written,
        reasoning=0,
    )
    assert said.total is not None
    assert said.exact
    difference = abs(Decimal(said.total) - expected.total_price)
    if all(int(one.as_tuple().exponent) >= -6 for one in _rates(expected.model_price)):
        assert difference == 0
    else:
        # Half a unit of the 12th place for each token.
        assert difference <= (whole + output) * Decimal("5e-13")


def test_enough_of_the_list_is_compared() -> None:
    """The comparison is with most of the list, not with a corner of it."""
    assert len(LISTED) > 500
    assert {"openai", "anthropic", "google"} <= {provider for provider, _ in LISTED}


@pytest.mark.parametrize(
    ("day", "total"),
    [
        (1, "10.000000000000"),
        (9, "10.000000000000"),
        (10, "2.000000000000"),
        (12, "2.000000000000"),
    ],
)
def test_the_price_is_that_of_the_day(day: int, total: str) -> None:
    """o3 cost 10 USD for a million tokens until it cost 2: an old call keeps its price."""
    at = datetime(2025, 6, day, tzinfo=UTC)
    assert price("o3", at=at, input=1_000_000, output=0, cached_input=0).total == total


@pytest.mark.parametrize(
    ("provider", "model", "edge"),
    [("google", "gemini-2.5-pro", 200_000), ("openai", "gpt-5.4", 272_000)],
)
def test_tiers_have_the_edges_of_the_list(provider: str, model: str, edge: int) -> None:
    """P35: one token above the edge the whole call costs more; at the edge it does not."""
    for tokens in (edge - 1, edge, edge + 1):
        expected = genai_prices.calc_price(
            genai_prices.Usage(input_tokens=tokens, output_tokens=100),
            model,
            provider_id=provider,
            genai_request_timestamp=NOW,
        ).total_price
        said = price(model, provider=provider, input=tokens, output=100)
        assert Decimal(said.total or "NaN") == expected
        assert said.tier == ("base" if tokens <= edge else f"input>{edge}")


@pytest.mark.parametrize(
    ("provider", "known"),
    [
        ("OpenAI", True),
        ("api.openai.com", True),
        (None, True),
        ("openai-compatible", False),
        ("ollama", False),
        ("127.0.0.1", False),
        ("my-gateway.example", False),
        ("api.openai.com.example", False),
    ],
)
def test_a_provider_is_never_guessed(provider: str | None, known: bool) -> None:
    """A server that only imitates a provider, or is called like one, does not have its prices."""
    said = price("gpt-4o", provider=provider, input=1000, output=500, cached_input=0)
    if known:
        assert said.total == "0.007500000000"
    else:
        assert said.unpriced is Unpriced.UNKNOWN_MODEL


@pytest.mark.parametrize(
    ("host", "provider", "model"),
    [
        ("generativelanguage.googleapis.com", "google", "gemini-2.5-pro"),
        ("us-central1-aiplatform.googleapis.com", "google", "gemini-2.5-pro"),
        ("api.anthropic.com", "anthropic", "claude-sonnet-4-5"),
        ("mine.openai.azure.com", "azure", "gpt-4o"),
        ("bedrock-runtime.us-east-1.amazonaws.com", "aws", "amazon.nova-pro-v1:0"),
        ("api.x.ai", "x-ai", "grok-3"),
        ("api.groq.com", "groq", "llama-3.3-70b-versatile"),
    ],
)
def test_hosts_are_those_of_the_list(host: str, provider: str, model: str) -> None:
    """A guarded transport knows only the host that was called: that is enough."""
    said = price(model, provider=host, input=1000, output=1000)
    assert said.total is not None
    assert said == price(model, provider=provider, input=1000, output=1000)


def test_our_names_of_providers_are_understood() -> None:
    """What our producers call a provider is what the list is asked for."""
    for ours, theirs, model in [
        ("gemini", "google", "gemini-2.5-pro"),
        ("vertex", "google", "gemini-2.5-pro"),
        ("google-vertex", "google", "gemini-2.5-pro"),
        ("xai", "x-ai", "grok-3"),
        ("aws-bedrock", "aws", "amazon.nova-pro-v1:0"),
        ("bedrock", "aws", "amazon.nova-pro-v1:0"),
        ("azure-openai", "azure", "gpt-4o"),
    ]:
        said = price(model, provider=ours, input=1000, output=1000)
        assert said.total is not None
        assert said == price(model, provider=theirs, input=1000, output=1000)


@pytest.mark.parametrize("model", ["no-such-model", "", None])
def test_an_unknown_model_is_unpriced(model: str | None) -> None:
    """P35: a model that the list does not know has no price, least of all 0 (G12)."""
    said = GenaiPrices().price("openai", model, Usage.reported_by_provider(input=1, output=1), NOW)
    assert said == Price(unpriced=Unpriced.UNKNOWN_MODEL)
    assert price("no-such-model", provider=None, input=1).unpriced is Unpriced.UNKNOWN_MODEL


def test_zero_stays_zero_and_unknown_stays_unknown() -> None:
    """P30: an explicit zero costs nothing; a count that nobody knows makes no amount."""
    zero = price("gpt-4o", input=0, output=0, cached_input=0)
    assert (zero.total, zero.exact) == ("0.000000000000", True)
    unknown = price("gpt-4o", input=1000)
    assert (unknown.total, unknown.unpriced) == (None, Unpriced.UNKNOWN_USAGE)
    assert unknown.lower == "0.002500000000"


def test_input_is_the_total_with_what_was_cached() -> None:
    """Cached tokens are part of the input: they are charged once, at their own price."""
    said = price("gpt-4o", input=1000, cached_input=400, output=0)
    assert said.parts["input"].tokens == 600
    assert said.parts["cached_input"].tokens == 400
    assert said.total == "0.002000000000"


@pytest.mark.parametrize(
    ("kept", "hour"),
    [
        (None, 0),
        ({}, 0),
        ({"ephemeral_1h_input_tokens": 600}, 600),
        ({"ephemeral_1h_input_tokens": 900}, 600),
        ({"ephemeral_1h_input_tokens": "600"}, 0),
    ],
)
def test_a_cache_write_that_is_kept_for_an_hour_has_its_own_price(kept: Any, hour: int) -> None:
    """Anthropic charges twice the input for it, and says how much it was in its own object only."""
    reported = {"cache_creation": kept} if kept is not None else {"input_tokens": 1}
    said = price(
        "claude-sonnet-4-5",
        provider="anthropic",
        input=1000,
        cached_input=0,
        cache_write=600,
        output=0,
        reported=reported,
    )
    expected = genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=1000, cache_write_tokens=600, cache_write_1h_tokens=hour, output_tokens=0
        ),
        "claude-sonnet-4-5",
        provider_id="anthropic",
        genai_request_timestamp=NOW,
    ).total_price
    assert Decimal(said.total or "NaN") == expected
    assert said.parts["cache_write"].tokens == 600 - hour


def test_audio_is_not_priced_as_text() -> None:
    """Where audio has a price of its own and some was used, the total is unknown rather than wrong."""
    usage = Usage(
        input=Count.exact(10, CountSource.PROVIDER_FINAL),
        output=Count.exact(10, CountSource.PROVIDER_FINAL),
        audio=Count.exact(5, CountSource.PROVIDER_FINAL),
    )
    said = GenaiPrices().price("openai", "gpt-audio", usage, NOW)
    assert said.unpriced is Unpriced.UNKNOWN_USAGE
    assert said.lower is None
    text = price("gpt-audio", input=10, output=10)
    assert text.total is not None


def test_what_is_paid_by_the_hour_is_not_free() -> None:
    """A row without any price of tokens or calls does not make them cost nothing (G12)."""
    said = price("whisper-1", input=10, output=10)
    assert said == Price(unpriced=Unpriced.UNKNOWN_USAGE)


def test_a_service_tier_is_selected_by_the_context() -> None:
    """Flex costs what the list says, and the receipt names it."""
    usage = Usage.reported_by_provider(input=1000, output=1000, cached_input=0)
    flex = GenaiPrices(context={"service_tier": "flex"}).price("openai", "o3", usage, NOW)
    expected = genai_prices.calc_price(
        genai_prices.Usage(input_tokens=1000, output_tokens=1000),
        "o3",
        provider_id="openai",
        genai_request_timestamp=NOW,
        price_context={"service_tier": "flex"},
    ).total_price
    standard = GenaiPrices().price("openai", "o3", usage, NOW)
    assert Decimal(flex.total or "NaN") == expected
    assert to_pico(flex.total or "") < to_pico(standard.total or "")
    assert (flex.tier, standard.tier) == ("service_tier=flex", None)
    assert flex.row != standard.row
    # A tier that makes no difference is not named.
    none = GenaiPrices(context={"service_tier": "none"}).price("openai", "o3", usage, NOW)
    assert none == standard


def test_the_row_is_pinned() -> None:
    """Source, version and the hash of the row, which anybody with that version can compute again."""
    said = price("gpt-4o", input=1, output=1)
    (provider,) = [one for one in providers if one.id == "openai"]
    model = provider.find_model("gpt-4o")
    assert model is not None
    row = {key: str(one) for key, one in vars(model.get_prices(NOW)).items() if one is not None}
    data = {"model": model.id, "prices": dict(sorted(row.items())), "provider": "openai"}
    text = json.dumps(data, separators=(",", ":"), sort_keys=True)
    assert said.row == hashlib.sha256(text.encode()).hexdigest()
    assert (said.source, said.version, said.currency) == (
        "genai-prices",
        genai_prices.__version__,
        "USD",
    )
    assert repr(GenaiPrices()) == f"<GenaiPrices {genai_prices.__version__}>"


def test_prices_are_those_that_are_installed() -> None:
    """Somebody else's update of the package's prices changes nothing here: the version on the receipt is true."""
    before = price("gpt-4o", input=1000, output=0, cached_input=0)
    set_custom_snapshot(DataSnapshot(providers=[], from_auto_update=True))
    try:
        assert price("gpt-4o", input=1000, output=0, cached_input=0) == before
    finally:
        set_custom_snapshot(None)


OFFLINE = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("the network was asked")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from datetime import UTC, datetime
import threading
from streamguard_core import Usage
from streamguard_ledger.prices import GenaiPrices
usage = Usage.reported_by_provider(input=1000, output=0, cached_input=0)
print(GenaiPrices().price("openai", "gpt-4o", usage, datetime.now(UTC)).total)
assert threading.active_count() == 1
"""


def test_the_network_is_never_asked() -> None:
    """Neither at import nor for a price; no thread is left that could."""
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0.002500000000"


def test_a_book_overrides_the_list() -> None:
    """A contract's rate for one model, list prices for the others."""
    book = PriceBook(
        {
            "currency": "USD",
            "prices": [{"provider": "openai", "model": "gpt-4o", "input": "2", "output": "8"}],
        },
        otherwise=GenaiPrices(),
    )
    usage = Usage.reported_by_provider(input=1_000_000, output=0, cached_input=0)
    assert book.price("openai", "gpt-4o", usage, NOW).total == "2.000000000000"
    assert book.price("openai", "gpt-4o-mini", usage, NOW).total == "0.150000000000"
    assert book.price("openai", "x", usage, NOW).unpriced is Unpriced.UNKNOWN_MODEL
