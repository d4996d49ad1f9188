"""What LangChain tells of a model's run, in the core's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from streamguard_core import Usage
from streamguard_langchain._langchain import LLMResult

_LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")
_OWN_IDS: Final = ("run-", "run--", "lc_run-")
"""How LangChain begins the ids that it gives to messages of which the provider has told none."""


class Asked(NamedTuple):
    """What a run asks for, before the provider is called."""

    provider: str | None
    model: str | None
    max_tokens: int | None


class Said(NamedTuple):
    """What the provider said in a run, as far as LangChain has kept it."""

    finish: str | None = None
    model: str | None = None
    request_id: str | None = None
    usage: Usage | None = None


NOTHING: Final = Said()


def asked_of(metadata: Mapping[str, Any] | None, params: Mapping[str, Any] | None) -> Asked:
    """What is asked for, from what a run is started with.

    Args:
        metadata: of the run; LangChain's `ls_provider`, `ls_model_name` and `ls_max_tokens`.
        params: the call's own parameters.
    """
    known, given = metadata or {}, params or {}
    model = known.get("ls_model_name") or given.get("model") or given.get("model_name")
    limits = [known.get("ls_max_tokens"), *(given.get(name) for name in _LIMITS)]
    limit = next((each for each in limits if type(each) is int and each > 0), None)
    return Asked(_text(known.get("ls_provider")), _text(model), limit)


def said_in(result: LLMResult | None, *, whole: bool) -> Said:
    """What the provider said, from a run's result.

    Args:
        result: what LangChain hands over at the end of a run; after a failure, what came before.
        whole: whether the answer came to its end.
    """
    generations = [each for listed in getattr(result, "generations", ()) for each in listed]
    messages = [message for each in generations if (message := getattr(each, "message", None))]
    if not messages:
        return _said_of_text(result, whole=whole)
    message = messages[0]
    said: Mapping[str, Any] = getattr(message, "response_metadata", None) or {}
    identity = _text(getattr(message, "id", None))
    return Said(
        finish=_finish(said),
        model=_text(said.get("model_name") or said.get("model")),
        request_id=None if identity is None or identity.startswith(_OWN_IDS) else identity,
        usage=usage_of(getattr(message, "usage_metadata", None), whole=whole),
    )


def _said_of_text(result: LLMResult | None, *, whole: bool) -> Said:
    """The same for a model that is no chat model."""
    output: Mapping[str, Any] = getattr(result, "llm_output", None) or {}
    tokens = output.get("token_usage")
    if not whole or not isinstance(tokens, Mapping):
        return NOTHING
    usage = Usage.reported_by_provider(
        input=_number(tokens.get("prompt_tokens")), output=_number(tokens.get("completion_tokens"))
    )
    return Said(model=_text(output.get("model_name")), usage=usage)


def _finish(said: Mapping[str, Any]) -> str | None:
    for name in ("finish_reason", "stop_reason", "done_reason"):
        if (word := _text(said.get(name))) is not None:
            return word
    return None


def usage_of(told: Any, *, whole: bool) -> Usage | None:
    """The usage of a message; of one that is not whole, what was sent in is all that is settled."""
    if not isinstance(told, Mapping):
        return None
    given = told.get("input_token_details") or {}
    made = told.get("output_token_details") or {}
    return Usage.reported_by_provider(
        input=_number(told.get("input_tokens")),
        output=_number(told.get("output_tokens")) if whole else None,
        cached_input=_number(given.get("cache_read")),
        cache_write=_number(given.get("cache_creation")),
        reasoning=_number(made.get("reasoning")) if whole else None,
    )


def _number(value: Any) -> int | None:
    return value if type(value) is int else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
