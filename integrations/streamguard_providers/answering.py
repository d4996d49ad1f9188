"""One answer of a provider, by as many tries as it takes before anything of it was produced."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from streamguard_core import AnyChunk, AttemptRole, ProducerError, Report, Usage
from streamguard_providers._httpx import family_of
from streamguard_providers.async_calls import undisturbed
from streamguard_providers.attempts import ProducerCall, Spent, wanted
from streamguard_providers.continuation import without_blanks
from streamguard_providers.pools import Lease, ProviderPool
from streamguard_providers.reading import Reading
from streamguard_providers.retries import Retries, Tries
from streamguard_providers.stream_decoder import StreamDecoder

#: How long a provider may take to cancel what goes on without a connection.
_FAREWELL_SECONDS: Final = 5.0
_log: Final = logging.getLogger("streamguard.providers")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Question:
    """What is asked, of whom, and over which connections.

    Args:
        provider: who is called.
        model: which model is asked for.
        url: where the request goes.
        request: makes a request of a client's.
        decoder: makes the decoder for one response.
        client: the caller's; None where the pool's is used.
        pool: where connections are kept.
        retries: when a call is made again.
        trim: whether blanks that the answer begins with are left out.
        patience: see `Reading`.
        farewell: asks the provider to end a call that was cut off and that closing does not end, by
            its id; returns the usage, where the provider then says it.
    """

    provider: str
    model: str
    url: str
    request: Callable[[Any], Any]
    decoder: Callable[[], StreamDecoder]
    client: Any
    pool: ProviderPool
    retries: Retries
    trim: bool = False
    patience: float | None = None
    farewell: Callable[[str], Awaitable[Usage | None]] | None = None


class Answering:
    """One answer while it is produced.

    Args:
        question: what is asked.
        report: who is told.
    """

    def __init__(self, question: Question, report: Report) -> None:
        self._question = question
        self._report = report
        self._tries = Tries(question.retries)
        self._spent = Spent()
        self._lease: Lease | None = None
        self._reading: Reading | None = None
        self._trimming = question.trim

    @property
    def was_cut(self) -> bool:
        """Whether the cutoff has ended it."""
        return self._reading is not None and self._reading.was_cut

    async def next(self) -> list[AnyChunk] | None:
        """What the next read brings, which may be nothing; None at the end.

        Raises:
            ProviderError: when the provider failed, and no retry is left or allowed.
            TruncatedStream: when the end was no end.
            CutOffError: when the call was cut off.
        """
        while True:
            try:
                if self._reading is None:
                    self._reading = await self._begin()
                batch = await self._reading.next()
            except ProducerError as error:
                await self._again(error)
            else:
                if batch and self._trimming:
                    batch = self._trimmed(batch)
                if batch:
                    self._tries.produced = True
                return batch

    def tell(self) -> None:
        """Report what is news, now that the latest batch was taken."""
        assert self._reading is not None
        self._reading.tell()

    async def close(self, *, left: bool) -> None:
        """Let go of everything.

        Args:
            left: whether we leave before the provider had ended.
        """
        try:
            if self._reading is not None:
                await self._reading.close(left=left)
                self._spent.tell(self._report)
                await self._part(self._reading)
        finally:
            if self._lease is not None:
                self._lease.release()

    async def _part(self, reading: Reading) -> None:
        """Have the provider end what was cut off, where closing the connection does not."""
        farewell, name = self._question.farewell, reading.response_id
        if farewell is None or not reading.was_cut or reading.done:
            return
        if name is None:
            _log.warning(
                "%s was left before it told the id of a call in the background, which may go on",
                self._question.provider,
            )
            return
        await undisturbed(self._say(farewell, name), seconds=_FAREWELL_SECONDS)

    async def _say(self, farewell: Callable[[str], Awaitable[Usage | None]], name: str) -> None:
        try:
            usage = await farewell(name)
        except Exception as error:  # noqa: BLE001 - the stream has ended, whatever the provider says
            _log.warning(
                "%s did not cancel a call in the background (%s)",
                self._question.provider,
                type(error).__name__,
            )
            return
        if usage is not None:
            self._report.finish(None, usage)

    def _trimmed(self, batch: list[AnyChunk]) -> list[AnyChunk]:
        """A batch without the blanks its text begins with; the first other character ends it."""
        rest, at_start = without_blanks(batch)
        self._trimming = at_start
        return rest

    async def _begin(self) -> Reading:
        question = self._question
        if question.client is None:
            self._lease = await question.pool.lease(question.url)
        return self._new(AttemptRole.FIRST)

    async def _again(self, error: ProducerError) -> None:
        """Begin the next try, after a wait; raise the error if there is none."""
        assert self._reading is not None
        self._reading.failed(error)
        wait = self._tries.after(error)
        if wait is None or not wanted(self._report):
            raise error
        await self._reading.close(left=False)
        _log.info("%s; calling again in %.1f s", error, wait)
        self._reading = self._new(AttemptRole.RETRY)
        await self._reading.rest(self._tries.rest(wait))
        if not wanted(self._report):
            raise error

    def _new(self, role: AttemptRole) -> Reading:
        question = self._question
        client = question.client if self._lease is None else self._lease.client
        request = question.request(client)
        decoder = question.decoder()
        call = ProducerCall(
            family_of(request).cut_off,
            decoder=decoder,
            spent=self._spent,
            role=role,
            provider=question.provider,
            model=question.model,
        )
        # From here on the cutoff ends whatever this try waits for.
        call.report_to(self._report)
        return Reading(call, decoder, self._report, client, request, question.patience)
