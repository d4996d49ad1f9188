"""The prompt processor: refuses a question that is none, and makes the conversation of one that is."""

from __future__ import annotations

import unicodedata
from typing import Annotated

from langchain_core.messages import BaseMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_pipeline.guardrails import Guardrails
from pydantic import AfterValidator, BaseModel, Field, StringConstraints, ValidationError

SYSTEM = "You answer in a few plain sentences."
LONGEST = 4_000
"""Characters of a question."""


class QuestionRefused(ValueError):
    """What was asked cannot be sent; says why, and never what was asked."""


def _printable(text: str) -> str:
    if any(unicodedata.category(one) in {"Cc", "Cs"} and one not in "\n\t" for one in text):
        raise ValueError("it has control characters")
    return text


class Question(BaseModel):
    """What a reader asks."""

    text: Annotated[
        str,
        StringConstraints(strip_whitespace=True),
        Field(min_length=1, max_length=LONGEST),
        AfterValidator(_printable),
    ]


def checked(text: str, guardrails: Guardrails | None) -> Question:
    """A question that may be sent.

    Raises:
        QuestionRefused: when it is empty, too long, has control characters, or a guardrail forbids it.
    """
    try:
        question = Question(text=text)
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False, include_context=False)
        raise QuestionRefused(f"the question cannot be sent: {wrong[0]['msg']}") from None
    rule = None if guardrails is None else guardrails.forbids(question.text)
    if rule is not None:
        raise QuestionRefused(f"the question cannot be sent: guardrail {rule!r}")
    return question


def prompt_processor() -> Runnable[Question, list[BaseMessage]]:
    """From a question to the messages for a model."""
    template = ChatPromptTemplate.from_messages([("system", SYSTEM), ("human", "{question}")])
    fields: Runnable[Question, dict[str, str]] = RunnableLambda(_fields)
    return fields | template | RunnableLambda(_messages)


def _fields(question: Question) -> dict[str, str]:
    return {"question": question.text}


def _messages(prompt: object) -> list[BaseMessage]:
    messages: list[BaseMessage] = prompt.to_messages()  # type: ignore[attr-defined]
    return messages
