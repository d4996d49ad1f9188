"""The stream of a model's run that belongs to no other: opened before the provider is called, sealed once."""

from __future__ import annotations

import asyncio
import contextlib

from streamguard_core import Cause, RecordedStream, Scope
from streamguard_core.cancellation import cause_of
from streamguard_langchain.stopping import ChainStopped


class OwnStream:
    """What has a receipt of its own: a run of a model, with what retries and fallbacks it takes.

    Args:
        stream: not yet started.
        scope: in which it is made, if there is one.
    """

    __slots__ = ("_began", "_carried", "_scope", "stream")

    def __init__(self, stream: RecordedStream, scope: Scope | None) -> None:
        self._scope = scope
        self.stream = stream
        # LangChain runs the model, and closing a transport does not end that: `over()` says when it has.
        stream.held = True
        self._began = False
        self._carried = 0
        stream.carried = lambda: self._carried
        if scope is not None:
            scope.add(stream)
            scope.awaited.append(self.give_up)

    def open(self) -> None:
        """Wait until the OPEN record is durable; only then may the provider be called.

        A callback can do that only by blocking: a ledger's own thread does the writing.

        Raises:
            ChainStopped: when the ledger could not write it, from what it says.
        """
        opening = self.stream.start()
        if opening is None:
            return
        try:
            opening.result()
        except Exception as error:
            self.stream.terminate(Cause.INTERNAL_ERROR, "the OPEN record could not be written")
            self.over()
            raise ChainStopped("the ledger could not open this stream") from error

    def passed(self) -> None:
        """A chunk was handed to the application. The first one is told, for its instant."""
        if self._began:
            self._carried += 1
        else:
            self._began = True
            self.stream.passed(1)

    def left(self, error: BaseException) -> None:
        """The run was ended from outside, by what `error` says."""
        cancelled = isinstance(error, asyncio.CancelledError)
        if cancelled and (cause := cause_of(error, self._scope)) is Cause.SHUTDOWN:
            self.stream.terminate(cause, "the reader's task was cancelled")
        elif cancelled:
            self.stream.disconnected("the reader's task was cancelled")
        else:
            self.stream.disconnected("the reader closed its iterator")
        self.over()

    def failed(self, kind: str) -> None:
        """No further try has come: the failure is the stream's end.

        Args:
            kind: the type of what the model raised.
        """
        self.over(Cause.PRODUCER_ERROR, f"the model raised {kind}")

    def over(self, cause: Cause = Cause.COMPLETED, detail: str = "") -> None:
        """The model has ended."""
        self.stream.ended(cause, detail)
        self._leave()

    def give_up(self) -> None:
        """The work around it is over, and nothing was heard of its end."""
        if self.stream.cause is not None:
            self.stream.unconfirmed()
            self._leave()

    def _leave(self) -> None:
        if self._scope is not None:
            self._scope.discard(self.stream)
            with contextlib.suppress(ValueError):  # the scope has emptied its list itself
                self._scope.awaited.remove(self.give_up)
