"""The dialect of OpenAI's text completions, which vLLM, llama.cpp and others speak too."""

from __future__ import annotations

from typing import ClassVar

from streamguard_core import AnyChunk, Chunk
from streamguard_providers.openai_chat import OpenAIChat
from streamguard_providers.openai_wire import Choice


class OpenAICompletions(OpenAIChat):
    """Reads one response of `/completions`. See `Dialect`.

    All but the place of the text is as in chat completions: choices, finish reasons, usage, errors
    and `[DONE]`.
    """

    name: ClassVar[str] = "openai-completions"

    def _choice(self, choice: Choice, chunks: list[AnyChunk]) -> None:
        if choice.text:
            index = choice.index or 0
            chunks.append(choice.text if index == 0 else Chunk(choice.text, choice=index))
        # A delta beside it (empty, in the last chunk of some) has nothing to add.
        choice.delta = choice.message = None
        super()._choice(choice, chunks)
