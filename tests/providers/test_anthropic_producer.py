"""AnthropicProducer: what is asked, with which headers, and whose name the call has."""

from __future__ import annotations

from typing import Any

import pytest

from streamguard_core import UsageError
from streamguard_providers import AnthropicProducer, Retries

from .recorder import Recorder, produce
from .scripted_server import Answer, chunked, head, scripted
from .wire import event, message

GOOD = chunked(message("a"), end=True)


async def test_what_is_asked_for() -> None:
    """The request has Anthropic's headers and fields, with the caller's options beside."""
    async with scripted(Answer(head() + GOOD, then="next")) as server:
        producer = AnthropicProducer(
            "claude-x",
            messages=[{"role": "user", "content": "q"}],
            system="Be brief.",
            base_url=f"{server.url}/",
            api_key="sk-1",
            max_tokens=9,
            options={"temperature": 0.5, "stream": False},
            headers={"Anthropic-Beta": "b1"},
        )
        assert await produce(producer, Recorder()) == ["a"]
        (request,) = server.requests
        assert server.bodies == [
            {
                "model": "claude-x",
                "messages": [{"role": "user", "content": "q"}],
                "system": "Be brief.",
                "max_tokens": 9,
                "temperature": 0.5,
                "stream": True,
            }
        ]
    lines = request.lower().split(b"\r\n")
    assert lines[0].startswith(b"post /v1/messages ")
    assert {b"x-api-key: sk-1", b"anthropic-version: 2023-06-01", b"anthropic-beta: b1"} <= set(
        lines
    )
    assert not any(line.startswith(b"authorization") for line in lines)


@pytest.mark.parametrize("own", [None, "Be brief.", [{"type": "text", "text": "Be brief."}]])
async def test_messages_of_the_system_stand_apart(own: Any) -> None:
    """Anthropic refuses them among the others: they become the system prompt, behind the caller's own."""
    cached = {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}
    system, user = {"role": "system", "content": [cached]}, {"role": "user", "content": "q"}
    async with scripted(Answer(head() + GOOD, then="next")) as server:
        producer = AnthropicProducer("m", messages=[system, user], system=own, base_url=server.url)
        await produce(producer, Recorder())
        (body,) = server.bodies
    assert body["messages"] == [user]
    before = [] if own is None else [{"type": "text", "text": "Be brief."}]
    assert body["system"] == [*before, cached]


async def test_its_own_name_for_a_call() -> None:
    """Anthropic calls a request by `request-id`: it is on the report and on the attempt."""
    async with scripted(Answer(head("x", "request-id: req_9") + GOOD, then="next")) as server:
        report = Recorder()
        await produce(AnthropicProducer("m", prompt="q", base_url=server.url), report)
        assert (None, "req_9") in report.names
        assert report.attempts[0].request_id == "req_9"


async def test_overloaded_before_the_first_token_is_tried_again() -> None:
    """Anthropic says in a 200 that it is overloaded: that is a 529, and worth another try."""
    said = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    answers = [head() + chunked(b"event: error\n" + event(said), end=True), head() + GOOD]
    async with scripted(*(Answer(one, then="next") for one in answers)) as server:
        report = Recorder()
        producer = AnthropicProducer(
            "m", prompt="q", base_url=server.url, retries=Retries(base=0.0)
        )
        assert await produce(producer, report) == ["a"]
        assert [one.error for one in report.attempts] == ["overloaded_error", None]


def test_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key of the caller's, that of the environment is used; Anthropic needs one."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(UsageError, match="ANTHROPIC_API_KEY"):
        AnthropicProducer("m", prompt="q")
    assert "x-api-key" not in AnthropicProducer("m", prompt="q", base_url="http://a")._headers
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    assert AnthropicProducer("m", prompt="q")._headers["x-api-key"].reveal() == "k"
