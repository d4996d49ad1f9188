"""Going on after a text: what each producer then asks for."""

from __future__ import annotations

from typing import Any

import pytest

from streamguard_core import Chunk, ChunkKind, UsageError
from streamguard_providers import AnthropicProducer, OllamaProducer, OpenAIProducer
from streamguard_providers.continuation import without_blanks

from .makers import Make, anthropic_producer, chat_producer, generate_producer, openai_producer
from .recorder import Recorder, produce
from .scripted_server import Answer, chunked, head, scripted
from .waiting import outcome
from .wire import DONE, message, token

ASKED = {"role": "user", "content": "Tell me about the river."}
SO_FAR = {"role": "assistant", "content": "The river "}


async def asked(producer: Any) -> tuple[str, dict[str, Any]]:
    """The path and the body of the request that a producer makes."""
    refusal = head("application/json", status="400 X") + chunked(b"{}", end=True)
    async with scripted(Answer(refusal, then="next")) as server:
        producer._url = producer._url.replace("http://server", server.url)
        await outcome(produce(producer, Recorder()))
        path = server.requests[0].split()[1].decode()
        return path, server.bodies[0]


@pytest.mark.parametrize(
    ("continues", "mark", "fields"),
    [
        (True, {}, {}),
        ("assistant", {}, {}),
        (
            "continue_final_message",
            {},
            {"continue_final_message": True, "add_generation_prompt": False},
        ),
        ("prefix", {"prefix": True}, {}),
        ("partial", {"partial": True}, {}),
    ],
)
async def test_openai_compatible_servers(
    continues: Any, mark: dict[str, Any], fields: dict[str, Any]
) -> None:
    """The assistant's text is the last message, marked in the way the server wants it."""
    producer = openai_producer("http://server", continues=continues, max_tokens=9)
    assert producer.continues
    path, first = await asked(producer)
    _, body = await asked(
        openai_producer("http://server", continues=continues).resumed("The river ")
    )
    assert path == "/v1/chat/completions"
    assert body["messages"] == [ASKED, SO_FAR | mark]
    expected = first | fields | {"messages": body["messages"]}
    del expected["max_tokens"]
    assert body == expected


async def test_a_chat_of_ollama() -> None:
    """Ollama leaves the last message open when it is the assistant's."""
    producer = chat_producer("http://server", options={"top_k": 1}, extra_body={"think": False})
    path, body = await asked(producer.resumed("The river ", max_tokens=5))
    assert path == "/api/chat"
    assert body["messages"] == [ASKED, SO_FAR]
    assert body["options"] == {"top_k": 1, "num_predict": 5}
    assert body["think"] is False


async def test_a_completion_of_ollama_goes_on_as_the_same_chat() -> None:
    """A template would be put around prompt and prefix together: so system, prompt and prefix are a chat."""
    extra = {"system": "Be brief.", "images": ["aW1n"], "keep_alive": 3}
    producer = generate_producer("http://server", extra_body=extra)
    path, body = await asked(producer.resumed("The river "))
    assert path == "/api/chat"
    assert body == {
        "model": "m",
        "stream": True,
        "keep_alive": 3,
        "messages": [
            {"role": "system", "content": "Be brief."},
            ASKED | {"images": ["aW1n"]},
            SO_FAR,
        ],
    }


async def test_a_raw_completion_of_ollama_goes_on_after_its_prompt() -> None:
    """Without a template prompt and prefix are one text."""
    producer = generate_producer("http://server", extra_body={"raw": True})
    path, body = await asked(producer.resumed(" The river"))
    assert path == "/api/generate"
    assert (body["prompt"], body["raw"]) == ("Tell me about the river. The river", True)


async def test_more_than_once() -> None:
    """What is resumed twice asks for one message with both texts; the first producer is as it was."""
    producer = chat_producer("http://server")
    again = producer.resumed("The ").resumed("river ")
    assert (await asked(again))[1]["messages"] == [ASKED, SO_FAR]
    assert (await asked(producer))[1]["messages"] == [ASKED]


async def test_parts_of_a_message_go_on_with_a_part() -> None:
    """A conversation that ends in an assistant's list of parts gets the prefix as one more."""
    part = {"type": "text", "text": "The "}
    messages: list[Any] = [ASKED, {"role": "assistant", "content": [part]}]
    producer = OpenAIProducer(
        "m", messages=messages, base_url="http://server/v1", continues="assistant"
    )
    _, body = await asked(producer.resumed("river "))
    assert body["messages"][-1]["content"] == [part, {"type": "text", "text": "river "}]


@pytest.mark.parametrize(
    ("base_url", "continues"),
    [
        ("https://api.openai.com/v1", False),
        ("http://localhost:8000/v1", False),
        ("https://api.mistral.ai/v1", True),
        ("https://api.deepseek.com/beta", True),
        ("https://api.deepseek.com", False),
    ],
)
def test_who_can(base_url: str, continues: bool) -> None:
    """By default only those can go on of whom it is known."""
    assert OpenAIProducer("m", prompt="a", api_key="k", base_url=base_url).continues is continues


@pytest.mark.parametrize("name", ["context", "suffix", "template"])
def test_a_completion_that_is_no_chat_cannot(name: str) -> None:
    """What a chat has no place for would be lost."""
    assert not OllamaProducer("m", "a", extra_body={name: "x"}).continues
    assert OllamaProducer("m", "a").continues


def test_not_where_the_provider_cannot(make: Make) -> None:
    """Going on where it cannot be, or after nothing, is a mistake, and the text says what to do."""
    producer = make("http://server")
    if not producer.continues:
        with pytest.raises(UsageError, match="pass `continues`"):
            producer.resumed("The river ")
    else:
        with pytest.raises(UsageError, match="nothing to go on after"):
            producer.resumed("")


def test_an_unknown_way_is_refused() -> None:
    """A way to go on that no server knows is a mistake."""
    with pytest.raises(UsageError, match="'prefix'"):
        openai_producer("http://server", continues="somehow")


async def test_anthropic() -> None:
    """The assistant's text is the last message."""
    producer = anthropic_producer("http://server", continues=True)
    path, body = await asked(producer.resumed("The river", max_tokens=7))
    assert path == "/v1/messages"
    assert body["messages"] == [ASKED, {"role": "assistant", "content": "The river"}]
    assert body["max_tokens"] == 7


@pytest.mark.parametrize(
    ("prefix", "sent", "answer", "read"),
    [
        ("One.\n\n", "One.", ["\n", "\nTwo", " three"], ["Two", " three"]),
        ("One.\n\n", "One.", ["Two", " three"], ["Two", " three"]),
        ("One.", "One.", [" Two"], [" Two"]),
        (" \n", None, [" ", "One"], ["One"]),
    ],
)
async def test_anthropic_refuses_blanks_at_the_end(
    prefix: str, sent: str | None, answer: list[str], read: list[str]
) -> None:
    """Blanks that end a prefix are not sent, and the reader gets them once whether they come again or not."""
    response = Answer(head() + chunked(message(*answer), end=True), then="next")
    async with scripted(response) as server:
        rest = anthropic_producer(server.url, continues=True).resumed(prefix)
        assert await produce(rest, Recorder()) == read
        said = [ASKED] if sent is None else [ASKED, {"role": "assistant", "content": sent}]
        assert server.bodies[0]["messages"] == said


def test_blanks_are_left_out_of_the_text_only() -> None:
    """Reasoning and tools pass; of the text only what comes before its first other character goes."""
    thought, tool = Chunk(" hm ", ChunkKind.REASONING), Chunk(" ", ChunkKind.TOOL)
    assert without_blanks([thought, " ", tool]) == ([thought, tool], True)
    assert without_blanks([thought, " \n a ", " b"]) == ([thought, "a ", " b"], False)
    assert without_blanks([Chunk(" "), Chunk(" a"), " "]) == ([Chunk("a"), " "], False)


@pytest.mark.parametrize(
    ("model", "can"),
    [
        ("claude-3-5-sonnet-20241022", True),
        ("claude-sonnet-4-20250514", True),
        ("claude-opus-4-1-20250805", True),
        ("claude-haiku-4-5", True),
        ("anthropic.claude-3-haiku-20240307-v1:0", True),
        ("claude-opus-4-6", False),
        ("claude-sonnet-4-6", False),
        ("claude-opus-4-15", False),
        ("claude-opus-5", False),
        ("something", False),
    ],
)
def test_models_of_anthropic_that_can(model: str, can: bool) -> None:
    """Later models refuse an assistant's last message; thinking ones do as well."""
    assert AnthropicProducer(model, prompt="a", api_key="k").continues is can
    options = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    assert not AnthropicProducer(model, prompt="a", api_key="k", options=options).continues


async def test_the_reader_gets_the_rest_only() -> None:
    """What comes after the prefix is what the chunks say."""
    answer = Answer(head() + chunked(token("is long", "stop"), DONE, end=True), then="next")
    async with scripted(answer) as server:
        rest = openai_producer(server.url, continues=True).resumed("The river ")
        assert await produce(rest, Recorder()) == ["is long"]
