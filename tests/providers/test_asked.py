"""What is seen in a request: whether it generates, what it asks for, and which try it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from streamguard_providers.asked import asked

HOST = "http://provider"


def request(library: Any, path: str, body: Any = None, method: str = "POST", **headers: str) -> Any:
    """A request as that library's clients make it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return library.Request(method, HOST + path, json=body, headers=named)


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/chat/completions", "said"),
        ("/v1/completions", "said"),
        ("/openai/deployments/mine/chat/completions?api-version=1", "said"),
        ("/v1/responses", "said"),
        ("/v1/messages", "said"),
        ("/api/chat", "said"),
        ("/api/generate", "said"),
        ("/v1beta/models/gemini-3:streamGenerateContent?alt=sse", "gemini-3"),
        ("/v1beta/models/gemini-3:generateContent", "gemini-3"),
        ("/v1/publishers/anthropic/models/claude:streamRawPredict", "claude"),
        ("/model/claude-5/invoke-with-response-stream", "claude-5"),
    ],
)
def test_endpoints_at_which_models_generate(library: Any, path: str, model: str) -> None:
    """They are known by the end of their path, and the model by the body or the path."""
    body = {"model": "said"} if model == "said" else {}
    found = asked(request(library, path, body))
    assert found.generates
    assert found.model == model


@pytest.mark.parametrize(
    "path",
    [
        "/v1/embeddings",
        "/v1/messages/count_tokens",
        "/v1/messages/batches",
        "/v1/threads/thread_1/messages",
        "/v1/responses/resp_1/cancel",
        "/api/pull",
        "/",
    ],
)
def test_others(library: Any, path: str) -> None:
    """What generates nothing is not looked into."""
    found = asked(request(library, path, {"model": "said"}))
    assert not found.generates
    assert found.model is None


def test_another_method(library: Any) -> None:
    """Asking for an answer that is there already generates nothing."""
    found = asked(request(library, "/v1/responses", method="GET"))
    assert not found.generates
    assert not found.spends
    assert asked(request(library, "/v1/embeddings")).spends


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": 5},
        {"max_completion_tokens": 5, "max_tokens": 9},
        {"max_output_tokens": 5},
        {"options": {"num_predict": 5}},
        {"generationConfig": {"maxOutputTokens": 5}},
        {"max_tokens": 5, "options": {"num_predict": -1}},
    ],
)
def test_the_cap(library: Any, body: Any) -> None:
    """By whichever name it has; a negative one means that there is none."""
    assert asked(request(library, "/api/chat", body)).max_tokens == 5


@pytest.mark.parametrize("content", [b"", b"secret", b'{"model": 5}', b"[" * 100_000])
def test_a_body_that_cannot_be_read(library: Any, content: bytes) -> None:
    """The provider judges it; here nothing is known, and nothing of it is shown."""
    found = asked(library.Request("POST", f"{HOST}/v1/messages?key=secret", content=content))
    assert found.generates
    assert (found.model, found.max_tokens) == (None, None)
    assert "secret" not in repr(found)


def test_a_body_that_is_large(library: Any) -> None:
    """It must not wait for us."""
    body = {"model": "said", "input": "x" * (1 << 20)}
    assert asked(request(library, "/v1/responses", body)).model is None


def test_a_body_that_is_a_stream(library: Any) -> None:
    """It is not read in the application's place."""

    class Pieces:
        def __iter__(self) -> Iterator[bytes]:
            raise AssertionError("it was read")

    found = asked(library.Request("POST", f"{HOST}/v1/messages", content=Pieces()))
    assert found.generates
    assert found.model is None


@pytest.mark.parametrize(("said", "tries"), [("0", 0), ("2", 2), ("many", None), ("²", None)])
def test_which_try_it_is(library: Any, said: str, tries: int | None) -> None:
    """As SDKs made by Stainless say it."""
    headers = {"x-stainless-retry-count": said.encode()}
    found = asked(library.Request("POST", f"{HOST}/v1/messages", headers=headers))
    assert found.tries == tries


def test_two_tries_of_one_call(library: Any) -> None:
    """They have the same key; other URLs and other bodies have others."""
    count = {"x_stainless_retry_count": "1"}
    first = asked(request(library, "/v1/messages", {"a": 1}, **count))
    assert asked(request(library, "/v1/messages", {"a": 1}, **count)).key == first.key
    assert asked(request(library, "/v1/messages", {"a": 2}, **count)).key != first.key
    assert asked(request(library, "/v1/responses", {"a": 1}, **count)).key != first.key
