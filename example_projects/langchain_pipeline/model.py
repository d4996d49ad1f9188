"""The streaming model: a chat model of LangChain's whose calls are made by a router."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import agenerate_from_stream
from langchain_core.messages import AIMessageChunk, BaseMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import ConfigDict

from streamguard_core import Report
from streamguard_core.chunks import text_of
from streamguard_core.scope import scope_of_call
from streamguard_providers import Router


class RoutedModel(BaseChatModel):
    """Asks whichever route of a router is well, and goes on by another where one breaks off.

    It is used inside of `guard()`: every call that the router makes is an attempt on that stream's receipt.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    router: Router
    model_name: str
    """A name that the router knows."""
    temperature: float | None = None
    max_tokens: int

    @property
    def _llm_type(self) -> str:
        return "streamguard-router"

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with aclosing(self._batches(messages, stop)) as batches:
            async for batch in batches:
                chunk = ChatGenerationChunk(
                    message=AIMessageChunk(content="".join(map(text_of, batch)))
                )
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
        # LangChain takes a stream without any chunk for a mistake of ours; whether it is one, the
        # response handler says.
        yield ChatGenerationChunk(message=AIMessageChunk(content=""))

    def _batches(
        self, messages: list[BaseMessage], stop: list[str] | None
    ) -> AsyncGenerator[list[Any], None]:
        options: dict[str, Any] = {}
        if self.temperature is not None:
            options["temperature"] = self.temperature
        if stop:
            options["stop"] = stop
        producer = self.router.producer(
            self.model_name,
            messages=convert_to_openai_messages(messages),
            max_tokens=self.max_tokens,
            options=options,
        )
        return producer.stream(report=_report())

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, run_manager, **kwargs))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise TypeError("a router needs an event loop; use astream() or ainvoke()")


def _report() -> Report:
    """Where this run of the model tells of its calls."""
    scope = scope_of_call()
    if scope is None or scope.session is None:
        raise RuntimeError("RoutedModel was called outside of guard(); guard the chain it is in")
    return scope.session
