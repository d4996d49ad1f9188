"""Whatever a provider puts into a field, no dialect falls over it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamguard_core import Chunk, ChunkKind, text_of
from streamguard_providers import JSONArrayDecoder, SSEDecoder, StreamDecoder, ToolFragment

from .decoding import FIXTURES, decoder_for

NAMES = sorted(path.name for path in FIXTURES.iterdir())
ODD: list[Any] = [
    *(None, True, 0, -1, 1.5, 2**70, "", "x", "error", "\ud83d", [], {}, [None], ["\ud83d"]),
    *(
        {"a": "\ud83d"},
        [[]],
        [{}],
        {"text": "t"},
        {"text": ["\ud83d"]},
        [{"type": 5}],
        [1, "\ud83d"],
    ),
]


def payloads(name: str) -> list[Any]:
    """The JSON payloads of one of our streams."""
    data = (FIXTURES / name).read_bytes()
    if name.endswith(".json"):
        units = JSONArrayDecoder().feed(data)
    elif name.endswith(".ndjson"):
        units = data.splitlines()
    else:
        units = [found.data for found in SSEDecoder().feed(data) if found.data[:1] == b"{"]
    return [json.loads(unit) for unit in units]


def places(value: Any) -> list[tuple[Any, Any]]:
    """All containers in a value, each with all its keys or places."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    found: list[tuple[Any, Any]] = []
    for key in keys:
        found += [(value, key), *places(value[key])]
    return found


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_value_of_any_field_is_raised_about(name: str, data: st.DataObject) -> None:
    """With any values in the place of any others, nothing is raised, and all text can be written."""
    decoder: StreamDecoder = decoder_for(name)
    for said in payloads(name):
        for _ in range(data.draw(st.integers(0, 2))):
            container, key = data.draw(st.sampled_from(places(said)))
            container[key] = json.loads(json.dumps(data.draw(st.sampled_from(ODD))))
        for chunk in decoder.dialect.decode(json.dumps(said).encode()):
            assert text_of(chunk).encode() is not None
            if isinstance(chunk, Chunk) and chunk.kind is ChunkKind.TOOL:
                assert ToolFragment.of(chunk).index >= 0
    dialect = decoder.dialect
    told = [dialect.finish, dialect.model, dialect.blocked, *dialect.finishes.values()]
    assert all(word is None or word.encode() is not None for word in told)
    assert dialect.usage is None or dialect.reported is not None
    assert json.dumps(dialect.reported, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        (
            "openai-chat",
            b'{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"\\ud83d"}}]}}]}',
        ),
        (
            "openai-responses",
            b'{"type":"response.output_item.done","item":{"type":"mcp_call","arguments":"\\udc00"}}',
        ),
        (
            "gemini",
            b'{"candidates":[{"content":{"parts":[{"functionCall":{"partialArgs":["\\ud83d"]}}]}}]}',
        ),
        ("ollama", b'{"message":{"tool_calls":[{"function":{"arguments":{"\\ud83d":1}}}]}}'),
    ],
)
def test_halves_of_characters_reach_no_arguments(name: str, payload: bytes) -> None:
    """Half a surrogate pair becomes a replacement wherever it stands, arguments and their names too."""
    chunks = StreamDecoder.named(name).dialect.decode(payload)
    assert chunks
    assert "\ud83d" not in "".join(map(text_of, chunks)).encode().decode()
