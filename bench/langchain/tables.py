"""A model's stream as LangChain has it, with the handler, under guard, and both; what each adds to a chunk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from bench.harness import Bar, Table, measure
from streamguard_langchain import StreamGuardCallbackHandler, guard

ALONE: Final = "LangChain's astream()"
INLINE: Final = "... with a handler that does nothing"
NOTHING: Final = "... with an async one that does nothing"
HANDLER: Final = "... with our handler"
GUARDED: Final = "... under guard()"
_ROUNDS, _CHUNKS = 9, 2000
_QUICK_ROUNDS, _QUICK_CHUNKS = 3, 400


class Ready(BaseChatModel):
    """A chat model whose chunks are there at once."""

    chunks: int

    @property
    def _llm_type(self) -> str:
        return "ready"

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        for _ in range(self.chunks):
            yield ChatGenerationChunk(message=AIMessageChunk(content="token "))

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for _ in range(self.chunks):
            yield ChatGenerationChunk(message=AIMessageChunk(content="token "))


class Inline(BaseCallbackHandler):
    """What any handler costs that LangChain calls in place."""

    run_inline = True


class Idle(AsyncCallbackHandler):
    """What any async handler costs."""


async def tables(*, quick: bool, valgrind: bool) -> AsyncIterator[Table]:
    """One table: nanoseconds of processor time per chunk, and the differences that have bars."""
    chunks = _QUICK_CHUNKS if quick else _CHUNKS
    model = Ready(chunks=chunks)
    guarded = guard(model)

    def reading(runnable: Any, *handlers: BaseCallbackHandler) -> Any:
        async def run() -> int:
            async for _ in runnable.astream("?", {"callbacks": list(handlers)}):
                pass
            return chunks

        return run

    cases = {
        ALONE: reading(model),
        INLINE: reading(model, Inline()),
        NOTHING: reading(model, Idle()),
        HANDLER: reading(model, StreamGuardCallbackHandler()),
        GUARDED: reading(guarded),
    }
    series = await measure(cases, _QUICK_ROUNDS if quick else _ROUNDS)
    rows = series.rows(ALONE, {})
    added = (
        series.difference(GUARDED, HANDLER, "guard() adds to the handler", Bar(1500, "ns")),
        series.difference(HANDLER, ALONE, "the handler adds", Bar(5000, "ns")),
        series.difference(GUARDED, ALONE, "guard() and its handler add"),
        series.difference(HANDLER, INLINE, "the handler adds to one that does nothing"),
    )
    yield Table("LangChain, hot", "ns per chunk", rows + added)
