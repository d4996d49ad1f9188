"""The pipeline: question | model | metrics | response handler | aggregator, as one guarded stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from chat_common.engine import MAX_TOKENS
from langchain_core.runnables import RunnableGenerator
from langchain_pipeline.aggregator import TokenAggregator
from langchain_pipeline.failures import NAME, ErrorHandler
from langchain_pipeline.guardrails import Guardrails
from langchain_pipeline.metrics import MetricsCollector
from langchain_pipeline.model import RoutedModel
from langchain_pipeline.prompts import Question, prompt_processor
from langchain_pipeline.responses import ResponseHandler

from streamguard_core import CutOffError, Deadlines, Receipt, Scope, use_scope
from streamguard_core.policies import cancel
from streamguard_langchain import GuardedRunnable, guard

_DEADLINES = Deadlines(connect=10, first_token=120, idle=60)
_SEAL = 30.0
"""Seconds: longest wait for a receipt."""

Show = Callable[[str, MetricsCollector], None]
"""Takes what the reader gets next. A reader who has left raises `BrokenPipeError`."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a stream has ended.

    Args:
        receipt: its record.
        metrics: what was measured.
        error: the type of what ended the chain, where something has; never its message.
    """

    receipt: Receipt
    metrics: MetricsCollector
    error: str | None


class Pipeline:
    """Answers questions.

    Args:
        errors: whom the model asks, and what happens when that fails.
        model: the model's name, for receipts.
        temperature: for the model; its own where it is None.
        guardrails: what must not be shown.
    """

    def __init__(
        self,
        errors: ErrorHandler,
        *,
        model: str,
        temperature: float | None,
        guardrails: Guardrails | None,
    ) -> None:
        self._errors = errors
        self._name = model
        self._guardrails = guardrails
        self._model = RoutedModel(
            router=errors.router, model_name=NAME, temperature=temperature, max_tokens=MAX_TOKENS
        )

    async def answer(self, question: Question, scope: Scope, show: Show) -> Ending:
        """Stream one answer to its end, whatever that is.

        Args:
            question: what is asked.
            scope: of this stream; whoever ends it ends the stream.
            show: gives the reader what comes.
        """
        metrics, words = MetricsCollector(), TokenAggregator()
        sealed: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        chain = self._chain(scope, metrics, words, sealed.set_result)
        with use_scope(scope):
            error = await _read(chain, question, scope, lambda text: show(text, metrics))
        receipt = await asyncio.wait_for(sealed, _SEAL)
        if receipt.completed:
            self._errors.answers.keep(question, words.answer)
        return Ending(receipt, metrics, error)

    def _chain(
        self,
        scope: Scope,
        metrics: MetricsCollector,
        words: TokenAggregator,
        on_receipt: Callable[[Receipt], None],
    ) -> GuardedRunnable[Question, str]:
        handler = ResponseHandler(self._guardrails, scope.terminate)
        return guard(
            prompt_processor()
            | self._model
            | RunnableGenerator(metrics.watch)
            | RunnableGenerator(handler.check)
            | RunnableGenerator(words.words),
            model=self._name,
            max_tokens=MAX_TOKENS,
            tags={"example": "langchain_pipeline"},
            deadlines=_DEADLINES,
            on_disconnect=cancel,
            on_receipt=on_receipt,
        )


async def _read(
    chain: GuardedRunnable[Question, str],
    question: Question,
    scope: Scope,
    show: Callable[[str], None],
) -> str | None:
    """Give the reader what comes; returns the type of what the chain was ended by."""
    try:
        async with aclosing(chain.astream(question)) as texts:  # type: ignore[type-var]
            async for text in texts:
                _give(text, scope, show)
    except CutOffError:
        return None  # Why stands on the receipt.
    except Exception as error:  # noqa: BLE001 - a chain may raise anything, and its message may quote the prompt
        return type(error).__name__
    return None


def _give(text: str, scope: Scope, show: Callable[[str], None]) -> None:
    try:
        show(text)
    except BrokenPipeError:
        scope.disconnected("nobody reads the answer any more")
