"""A streaming LangChain pipeline: governed, measured, and with a receipt for each stream.

    python main.py [QUESTION] [--enable-guardrails] [--simulate-failures] [--monitor-performance]
                   [--model M] [--temperature T] [--base-url URL] [--block PHRASE]

Without --base-url two loopback engines answer: no key, no download. An address that ends in /v1 is
taken to be OpenAI-compatible (the key is read from OPENAI_API_KEY), any other to be Ollama.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

# The parts of this example, and what the examples have in common, stand beside it.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from langchain_pipeline.command_line import options
from langchain_pipeline.engines import Engines, engines_at
from langchain_pipeline.failures import ErrorHandler
from langchain_pipeline.guardrails import Guardrails
from langchain_pipeline.pipeline import Pipeline
from langchain_pipeline.prompts import Question, QuestionRefused, checked
from langchain_pipeline.rounds import NEW_QUESTION, ONLY, ROUNDS, Round
from langchain_pipeline.stopping import Stop
from langchain_pipeline.terminal import Terminal, summary

from streamguard_core import Cause, Receipt, Scope


class Program:
    """Runs the rounds that were asked for.

    Args:
        asked: the command line.
        question: the reader's.
        guardrails: where they are enabled.
        engines: who answers.
    """

    def __init__(
        self,
        asked: argparse.Namespace,
        question: Question,
        guardrails: Guardrails | None,
        engines: Engines,
    ) -> None:
        self._question = question
        self._engines = engines
        self._terminal = Terminal(monitor=asked.monitor_performance)
        self._errors = ErrorHandler(engines.routes)
        self._rounds = ROUNDS if asked.simulate_failures else ONLY
        self._pipeline = Pipeline(
            self._errors,
            model=engines.model,
            temperature=asked.temperature,
            guardrails=guardrails,
        )

    async def run(self) -> int:
        """Run them; returns the exit code."""
        stop = Stop()
        self._terminal.say(f"Answers come from {self._engines.name} ({self._engines.model}).")
        receipt = None
        for number, planned in enumerate(self._rounds, 1):
            self._begin(number, planned)
            receipt = await self._round(planned, stop)
            if stop.code is not None:
                return stop.code
            if receipt.cause is Cause.CLIENT_DISCONNECT:
                break
        return 0 if receipt is not None and receipt.completed else 1

    def _begin(self, number: int, planned: Round) -> None:
        if planned.later:
            self._errors.skip_cooldown()
        if planned.title:
            self._engines.fail((planned.first, planned.second))
            self._terminal.say(f"\nRound {number} of {len(self._rounds)}: {planned.title}")

    async def _round(self, planned: Round, stop: Stop) -> Receipt:
        question = Question(text=NEW_QUESTION) if planned.new else self._question
        scope = Scope()
        with stop.ends(scope):
            ending = await self._pipeline.answer(question, scope, self._terminal.show)
        self._terminal.end()
        for line in summary(ending, self._errors.said(ending.receipt)):
            self._terminal.say(line)
        return ending.receipt


def main() -> int:
    """Answer what the command line asks; returns the exit code."""
    asked = options()
    guardrails = Guardrails(asked.block) if asked.enable_guardrails else None
    try:
        question = checked(asked.question, guardrails)
    except QuestionRefused as refused:
        print(f"main.py: {refused}", file=sys.stderr)
        return 2
    try:
        with engines_at(asked.base_url, asked.model) as engines:
            return asyncio.run(Program(asked, question, guardrails, engines).run())
    except KeyboardInterrupt:
        print("main.py: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
