"""Background answers: made without a reader, fetched or cancelled by their id."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final

from streamguard_testing.faults import Cut
from streamguard_testing.generation import Generation
from streamguard_testing.openai_dialect import error_of
from streamguard_testing.records import Ending, LiveRequest, State
from streamguard_testing.responses_dialect import ResponsesVoice

_PATH: Final = re.compile(r"/v1/responses/([^/]+)(/cancel)?")

#: The addresses under which they are found.
PATHS: Final = ("/v1/responses/{id}", "/v1/responses/{id}/cancel")


class Nobody:
    """A responder for an answer that nobody reads."""

    gone = False

    def start(self, status: int, content_type: str) -> None:
        """Do nothing."""

    def write(self, data: bytes) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""

    def whole(
        self, status: int, content_type: str, body: bytes, retry_after: int | None = None
    ) -> None:
        """Do nothing."""

    def cut(self, how: Cut) -> None:
        """Do nothing."""

    async def writable(self) -> bool:
        """Never wait."""
        return False

    async def flushed(self) -> None:
        """Never wait."""


class Background:
    """The answers of `/v1/responses` that go on without their reader.

    Args:
        remembered: Tells whether the engine still knows a request; what it forgets is gone here.
        ended: Called when an answer that nobody reads is over.
    """

    def __init__(
        self,
        remembered: Callable[[str], LiveRequest | None],
        ended: Callable[[LiveRequest], None],
    ) -> None:
        self._remembered = remembered
        self._ended = ended
        self._jobs: dict[str, Generation] = {}

    def keep(self, generation: Generation) -> None:
        """Make an answer that is streamed known by its id, too."""
        self._jobs = {name: job for name, job in self._jobs.items() if self._remembered(name)}
        self._jobs[generation.live.id] = generation

    def start(self, generation: Generation) -> dict[str, object]:
        """Begin an answer without a reader, and return its response object."""
        self.keep(generation)

        def over(task: asyncio.Task[None]) -> None:
            generation.ended()
            self._ended(generation.live)
            if not task.cancelled():
                task.result()  # the loop reports what went wrong

        generation.begin().add_done_callback(over)
        return response_of(generation)

    def respond(self, method: str, path: str) -> tuple[int, object] | None:
        """Answer a request for one of them.

        Returns:
            The status, and what is to be sent as JSON; None when the address is another one.
        """
        found = _PATH.fullmatch(path)
        if found is None:
            return None
        wanted = "POST" if found[2] else "GET"
        if method != wanted:
            return 405, error_of(405, f"{path} is asked with {wanted}")
        name = found[1].removeprefix("resp_")
        job = self._jobs.get(name) if self._remembered(name) else None
        if job is None:
            return 404, error_of(404, "no background response with this id is remembered")
        if found[2]:
            job.cancel()
        return 200, response_of(job)


def response_of(job: Generation) -> dict[str, object]:
    """Return the response object of an answer as it is now."""
    voice = job.voice
    assert isinstance(voice, ResponsesVoice)
    match job.ending:
        case Ending.COMPLETED:
            return voice.ended(job.reason, voice.items(job.said(), job.reason), job.totals())
        case Ending.CANCELLED:
            # As the provider does: what a cancelled answer used is not told.
            return voice.response("cancelled")
        case None:
            queued = job.live.state is State.QUEUED
            return voice.response("queued" if queued else "in_progress")
        case _:
            error = {"code": "server_error", "message": job.fault.error_message}
            return voice.response("failed", error=error)
