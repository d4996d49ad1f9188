"""Tests of the table of terminations: look-ups are pure, own rows come first, mistakes are said with where."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamguard_core import OnClose, UsageError
from streamguard_providers import (
    Evidence,
    ExplicitCancel,
    Grade,
    LateLookup,
    OllamaProducer,
    OpenAIProducer,
    TerminationRow,
    TerminationTable,
    UsageArrives,
    row_of_call,
)
from streamguard_providers.known import route_of

DAY = date(2026, 11, 28)
SHIPPED = TerminationTable.shipped()


def on_close(provider: str | None, **more: Any) -> str:
    """What the shipped table says about closing."""
    return str(SHIPPED.row(provider, more.pop("model", "m"), DAY, **more).on_close)


# -- what is shipped ---------------------------------------------------------------------------------------


def test_every_shipped_row_has_its_evidence() -> None:
    """Each says why it is believed, since when, and in which version of the table it stands."""
    assert len(SHIPPED.rows) >= 26
    for row in SHIPPED.rows:
        assert row.evidence, row
        assert all(evidence.text for evidence in row.evidence)
        assert row.valid_from is not None
        assert row.table == SHIPPED.version
        assert row.provider in SHIPPED.providers


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        ("openai", "stops_billing"),
        ("azure-openai", "stops_billing"),
        ("anthropic", "stops_billing"),
        ("aws-bedrock", "bills_full"),
        ("google", "unknown"),
        ("google-vertex", "unknown"),
        ("vercel-ai-gateway", "bills_full"),
        ("openrouter", "unknown"),
        ("vllm", "stops_billing"),
        ("ollama", "stops_billing"),
        ("llama.cpp", "stops_billing"),
        ("groq", "bills_full"),
        ("mistral", "bills_full"),
        ("novita", "stops_billing"),
        ("deepseek", "stops_billing"),
        ("xai", "stops_billing"),
        ("a provider nobody knows", "unknown"),
        (None, "unknown"),
    ],
)
def test_what_is_believed(provider: str | None, expected: str) -> None:
    """The rows that decisions rest on, one by one; a provider that is not known is unknown, not safe."""
    assert on_close(provider) == expected


def test_the_route_makes_a_difference() -> None:
    """OpenAI's responses say their usage elsewhere than its chat, can be looked up and be cancelled."""
    chat = SHIPPED.row("openai", "gpt-5", DAY, route="openai-chat")
    responses = SHIPPED.row("openai", "gpt-5", DAY, route="openai-responses")
    assert (chat.usage, chat.cancel, chat.lookup) == (
        UsageArrives.FINAL_CHUNK,
        ExplicitCancel.NONE,
        LateLookup.NONE,
    )
    assert (responses.usage, responses.cancel, responses.lookup) == (
        UsageArrives.TERMINAL_EVENT,
        ExplicitCancel.BACKGROUND,
        LateLookup.BY_ID,
    )


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("bedrock", "aws-bedrock"),
        ("bedrock-runtime.eu-central-1.amazonaws.com", "aws-bedrock"),
        ("Gemini", "google"),
        ("generativelanguage.googleapis.com", "google"),
        ("us-central1-aiplatform.googleapis.com", "google-vertex"),
        ("api.openai.com", "openai"),
        ("mine.openai.azure.com", "azure-openai"),
        ("openrouter.ai", "openrouter"),
        ("llama-cpp", "llama.cpp"),
        ("example.com", "example.com"),
    ],
)
def test_providers_have_several_names(asked: str, name: str) -> None:
    """By their own name, by others, and by the host that is called, as transports name them."""
    assert SHIPPED.row(asked, "m", DAY).provider == name
    assert SHIPPED.knows(asked) is (name != "example.com")


def test_a_call_falls_under_its_host_first() -> None:
    """A gateway is not the provider whose models it offers; at a host nobody knows the name counts."""
    gateway = row_of_call("https://ai-gateway.vercel.sh/v1/chat/completions", "openai", "m")
    assert gateway.on_close is OnClose.BILLS_FULL
    assert row_of_call("http://localhost:1/v1", "bedrock", "m").provider == "aws-bedrock"
    assert row_of_call("http://localhost:1/v1", None, "m").on_close is OnClose.UNKNOWN


def test_producers_know_their_row() -> None:
    """A session that is given no table asks its producer."""
    groq = OpenAIProducer("m", prompt="p", base_url="https://api.groq.com/openai/v1", api_key="k")
    assert (groq.termination.provider, groq.termination.on_close) == ("groq", "bills_full")
    openai = OpenAIProducer("m", prompt="p", api_key="k")
    assert (openai.route, openai.termination.on_close) == ("openai-chat", "stops_billing")
    assert OllamaProducer("m", "p").termination.provider == "ollama"
    assert (route_of("/v1/responses"), route_of("/v1/completions")) == (
        "openai-responses",
        "openai-completions",
    )


# -- look-ups, as properties ---------------------------------------------------------------------------------

MODELS = st.sampled_from(["*", "a", "ab", "a*", "ab*", "*b", "a?", "[ab]"])
ROUTES = st.sampled_from(["*", "chat", "ch*"])
DAYS = st.sampled_from([None, *(DAY + timedelta(days=days) for days in (-9, -1, 0, 1))])
ROWS = st.builds(
    TerminationRow,
    provider=st.sampled_from(["p", "q", "*"]),
    model=MODELS,
    route=ROUTES,
    valid_from=DAYS,
    on_close=st.sampled_from(OnClose),
)
TABLES = st.lists(
    ROWS, max_size=8, unique_by=lambda row: (row.provider, row.model, row.route, row.valid_from)
)
ASKED = st.tuples(
    st.sampled_from(["p", "q", "r", None]),
    st.sampled_from(["a", "ab", "b", "abc", None]),
    st.sampled_from(["chat", "other", None]),
)


def _holds(row: TerminationRow, asked: tuple[str | None, str | None, str | None]) -> bool:
    """Whether a row is about a call at all; written down a second time on purpose."""
    provider, model, route = asked
    return (
        row.provider in {"*", provider}
        and (row.model == "*" or (model is not None and fnmatchcase(model, row.model)))
        and (row.route == "*" or (route is not None and fnmatchcase(route, row.route)))
        and (row.valid_from or date.min) <= DAY
    )


@given(TABLES, ASKED)
def test_the_most_specific_row_that_holds_wins(
    rows: list[TerminationRow], asked: tuple[str | None, str | None, str | None]
) -> None:
    """No row that holds is more specific, or as specific and newer; none that does not hold is answered."""
    provider, model, route = asked
    found = TerminationTable(rows).row(provider, model, DAY, route=route)
    holding = [row for row in rows if _holds(row, asked)]
    if not holding:
        assert (found.on_close, found.evidence) == (OnClose.UNKNOWN, ())
        return
    (row,) = [
        row
        for row in rows
        if (row.provider, row.model, row.route, row.valid_from)
        == (found.provider, found.model, found.route, found.valid_from)
    ]
    assert row in holding
    assert row.provider != "*" or all(other.provider == "*" for other in holding)
    same = [
        other.valid_from or date.min
        for other in holding
        if (other.provider, other.model, other.route) == (row.provider, row.model, row.route)
    ]
    assert (row.valid_from or date.min) == max(same)
    literal = len(row.model.strip("*"))
    if not set("?[") & set(row.model):
        assert all(
            len(other.model.strip("*")) <= literal
            for other in holding
            if other.provider == row.provider and not set("?[") & set(other.model)
        )


@given(TABLES, ASKED, st.randoms(use_true_random=False))
def test_the_order_of_rows_means_nothing(
    rows: list[TerminationRow], asked: tuple[str | None, str | None, str | None], chance: Any
) -> None:
    """The same question has the same answer, however the rows are listed, and asking changes nothing."""
    provider, model, route = asked
    shuffled = list(rows)
    chance.shuffle(shuffled)
    table, other = TerminationTable(rows), TerminationTable(shuffled)
    first = table.row(provider, model, DAY, route=route)
    assert first == other.row(provider, model, DAY, route=route)
    assert first == table.row(provider, model, DAY, route=route)


@given(TABLES, TABLES, ASKED)
def test_own_rows_come_first(
    own: list[TerminationRow],
    rest: list[TerminationRow],
    asked: tuple[str | None, str | None, str | None],
) -> None:
    """Where a row of one's own holds it is the answer, else the table behind is asked as if alone."""
    provider, model, route = asked
    behind, mine = TerminationTable(rest, version="behind"), TerminationTable(own, version="mine")
    found = behind.overridden_by(mine).row(provider, model, DAY, route=route)
    holds = any(_holds(row, asked) for row in own)
    expected = (mine if holds else behind).row(provider, model, DAY, route=route)
    if holds or any(_holds(row, asked) for row in rest):
        assert found == expected
    else:
        assert found.on_close is OnClose.UNKNOWN


def test_a_row_holds_from_its_day() -> None:
    """The newest that is not in the future: receipts of the past keep the row of their day."""
    table = TerminationTable.from_data(
        [
            {"provider": "p", "on_close": "stops_billing", "valid_from": "2026-01-01"},
            {"provider": "p", "on_close": "bills_full", "valid_from": "2026-02-01"},
        ]
    )
    days = {date(2025, 12, 31): "unknown", date(2026, 1, 1): "stops_billing"}
    days |= {date(2026, 1, 31): "stops_billing", date(2026, 2, 1): "bills_full"}
    assert {day: str(table.row("p", "m", day).on_close) for day in days} == days


# -- rows of one's own ---------------------------------------------------------------------------------------

OWN_ROW: dict[str, Any] = {
    "provider": "bedrock",
    "model": "Claude-*",
    "on_close": "stops_billing",
    "evidence": [{"grade": "M", "text": "our invoice of May"}],
}


def own_file(folder: Path, content: object) -> Path:
    """A file of one's own."""
    path = folder / "terminations.json"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


WAYS: dict[str, Callable[[Path], Any]] = {
    "rows": lambda _: [OWN_ROW],
    "data": lambda _: {"version": "may", "rows": [OWN_ROW]},
    "file": lambda folder: own_file(folder, {"version": "may", "rows": [OWN_ROW]}),
    "name of a file": lambda folder: str(own_file(folder, {"version": "may", "rows": [OWN_ROW]})),
    "table": lambda _: TerminationTable(
        [
            TerminationRow(
                provider="bedrock",
                model="claude-*",
                on_close=OnClose.STOPS_BILLING,
                evidence=(Evidence(grade=Grade.MEASURED, text="our invoice of May"),),
            )
        ],
        version="may",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_rows_may_be_overridden(way: str, tmp_path: Path) -> None:
    """By rows, their data, a file or a table; names need not be the table's own, nor their case."""
    table = SHIPPED.overridden_by(WAYS[way](tmp_path))
    row = table.row("aws-bedrock", "CLAUDE-5", DAY)
    assert (row.on_close, row.evidence[0].text) == (OnClose.STOPS_BILLING, "our invoice of May")
    assert str(row).endswith(f"(table {'own' if way == 'rows' else 'may'})")
    assert (
        table.row("bedrock-runtime.us-east-1.amazonaws.com", "nova", DAY).table == SHIPPED.version
    )
    assert SHIPPED.row("aws-bedrock", "claude-5", DAY).on_close is OnClose.BILLS_FULL


def test_tables_stand_behind_one_another() -> None:
    """An override of an override: each is asked before what it was put in front of."""
    first = SHIPPED.overridden_by(
        {"version": "one", "rows": [{"provider": "p"}, {"provider": "q"}]}
    )
    both = first.overridden_by({"version": "two", "rows": [{"provider": "q"}]})
    asked = [both.row(name, "m", DAY).table for name in ("p", "q", "openai")]
    assert asked == ["one", "two", SHIPPED.version]
    assert [layer.version for layer in both.layers] == ["two", "one", SHIPPED.version]
    onto = TerminationTable(()).overridden_by(both)
    assert [onto.row(name, "m", DAY).table for name in ("p", "q", "openai")] == asked
    assert repr(first) == "<TerminationTable one, 2 rows>"


def test_a_table_of_ones_own_may_stand_alone(tmp_path: Path) -> None:
    """Then only its rows hold, under its own names."""
    content = {"version": "1", "providers": {"Mine": ["*.corp"]}, "rows": [{"provider": "mine"}]}
    table = TerminationTable.from_file(own_file(tmp_path, content))
    assert table.knows("llm.corp")
    assert table.row("llm.corp", None, DAY).table == "1"
    assert not table.knows("openai")


WRONG: dict[str, tuple[object, str]] = {
    "no JSON": ("{", r"terminations\.json is no JSON: "),
    "no table": ("[]", r"Expected `object`, got `array`"),
    "no rows": ({"version": "1"}, "missing required field `rows`"),
    "on_close": (
        {"rows": [{"provider": "p"}, {"provider": "p", "on_close": "maybe"}]},
        r"'maybe' - at `\$\.rows\[1\]\.on_close`; use one of stops_billing, bills_full, unknown",
    ),
    "usage": ({"rows": [{"provider": "p", "usage": "soon"}]}, "use one of each_chunk, final_chunk"),
    "grade": (
        {"rows": [{"provider": "p", "evidence": [{"grade": "A", "text": "x"}]}]},
        "use one of P, I, M, S, K",
    ),
    "no provider": (
        {"rows": [{"model": "*"}]},
        r"missing required field `provider` - at `\$\.rows\[0\]`",
    ),
    "empty": ({"rows": [{"provider": " "}]}, "row 0 .* has an empty provider"),
    "unknown field": (
        {"rows": [{"provider": "p", "on_clos": "unknown"}]},
        "unknown field `on_clos`",
    ),
    "no day": (
        {"rows": [{"provider": "p", "valid_from": "May"}]},
        r"date - at `\$\.rows\[0\]\.valid_from`",
    ),
    "twice": ({"rows": [{"provider": "p"}, {"provider": "P"}]}, r"row 1 .* repeats an earlier one"),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_bad_file_says_where(how: str, tmp_path: Path) -> None:
    """The file, the place in it, and what may stand there; nothing is taken from a file that is wrong."""
    content, message = WRONG[how]
    with pytest.raises(UsageError, match=message):
        SHIPPED.overridden_by(own_file(tmp_path, content))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Its name is said, and why it could not be read."""
    with pytest.raises(UsageError, match=r"reading .*gone\.json failed: No such file"):
        TerminationTable.from_file(tmp_path / "gone.json")


def test_what_is_no_data() -> None:
    """An object that JSON does not know is refused like a wrong file."""
    with pytest.raises(UsageError, match="no plain data"):
        TerminationTable.from_data([{"provider": object()}])
