"""`StreamGuardCallbackHandler`: sees every run of a model, receipts it, and stops it with its stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, Final
from uuid import UUID

from streamguard_core import (
    AttemptOutcome,
    AttemptRole,
    CutOffError,
    Ledger,
    Observer,
    Pricer,
    RecordedStream,
    Scope,
    current_scope,
)
from streamguard_core.scope import begin_calls, current_caller
from streamguard_langchain._langchain import BaseCallbackHandler, LLMResult, ensure_config
from streamguard_langchain.receipts import OnReceipt, telling
from streamguard_langchain.results import Asked, asked_of, said_in
from streamguard_langchain.runs import ModelRun
from streamguard_langchain.scope import ChainScope, options_in, refuse_if_over, scope_of_run
from streamguard_langchain.stopping import (
    ENDED_FROM_OUTSIDE,
    ChainStopped,
    cause_of_end,
    live_session,
)
from streamguard_langchain.streams import OwnStream
from streamguard_langchain.tree import Failure, Tree

_NOBODY: Final = (None, None)


class StreamGuardCallbackHandler(BaseCallbackHandler):
    """Governs the models' runs of every chain that it is given to, sync and async.

    In a stream (of `guard()`, of a guarded endpoint) a run is one attempt on the stream's receipt. Any
    other run has a receipt of its own, with its retries and fallbacks as further attempts, and ends with
    the request in which it is made. When the stream is over, the next chunk is refused and nothing more
    is begun: no model, no tool, no retry, no fallback.

    One handler may be shared by any number of chains, threads and event loops. What goes wrong inside
    of it is logged by LangChain and changes no result.

    Args:
        ledger: where runs with a receipt of their own are recorded; by default the request's.
        prices: what their calls cost.
        observers: are told of them.
        tags: for their receipts.
        on_receipt: called with each of those receipts.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> receipts = []
        >>> handler = StreamGuardCallbackHandler(on_receipt=receipts.append)
        >>> model = FakeListChatModel(responses=["never"])
        >>> "".join(chunk.text for chunk in model.stream("?", {"callbacks": [handler]}))
        'never'
        >>> [str(receipt.cause) for receipt in receipts]
        ['COMPLETED']
    """

    run_inline = True
    """In the chain's own task: another one costs more than LangChain's whole chunk."""
    raise_error = False

    def __init__(
        self,
        *,
        ledger: Ledger | None = None,
        prices: Pricer | None = None,
        observers: Iterable[Observer] = (),
        tags: Mapping[str, str] | None = None,
        on_receipt: OnReceipt | None = None,
    ) -> None:
        told = () if on_receipt is None else (telling(on_receipt),)
        self._options: dict[str, Any] = {
            "ledger": ledger,
            "prices": prices,
            "tags": tags,
            "observers": (*observers, *told),
        }
        self._runs: dict[UUID, ModelRun] = {}
        self._last: tuple[UUID | None, Any] = _NOBODY
        """Whose chunk came last: one object, which other threads may replace."""
        self._tree = Tree()

    # -- models --------------------------------------------------------------------------------------

    def on_llm_start(
        self,
        *asked: Any,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A model is about to be called."""
        self._begin(run_id, parent_run_id, asked_of(metadata, kwargs.get("invocation_params")))

    on_chat_model_start = on_llm_start

    def on_llm_new_token(
        self,
        token: Any,
        *,
        run_id: UUID,
        chunk: Any = None,
        parent_run_id: Any = None,
        tags: Any = None,
        **kwargs: Any,
    ) -> None:
        """A chunk came, and goes on to the application unless its stream is over."""
        # What is always given has a name, so that no dictionary is filled with it; and to hash a UUID is not free.
        last_id, run = self._last
        if last_id is not run_id:
            if (run := self._runs.get(run_id)) is None:
                return
            self._last = run_id, run
        if run.stopped:
            raise ChainStopped
        run.chunks += 1
        message = getattr(chunk, "message", None)
        if message is not None and (usage := getattr(message, "usage_metadata", None)):
            run.note(usage)
        if run.own is not None:
            run.own.passed()

    def on_stream_event(self, event: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """The same for the typed events of newer versions, of which some carry content."""
        if isinstance(event, Mapping) and event.get("event") == "content-block-delta":
            self.on_llm_new_token("", run_id=run_id)
        elif (run := self._runs.get(run_id)) is not None and run.stopped:
            raise ChainStopped

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """The model has answered to its end."""
        run = self._take(run_id)
        if run is None:
            return
        run.end(AttemptOutcome.COMPLETED, said_in(response, whole=True))
        if run.own is not None:
            run.own.over()

    def on_llm_error(
        self,
        error: BaseException,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        response: LLMResult | None = None,
        **kwargs: Any,
    ) -> None:
        """The model's run has failed, or was ended from outside."""
        run = self._take(run_id)
        if run is None:
            return
        said = said_in(response, whole=False)
        if run.stopped or isinstance(error, (*ENDED_FROM_OUTSIDE, CutOffError)):
            run.end(AttemptOutcome.CUT, said)
            if run.own is not None:
                run.own.left(error)
            return
        kind = type(error).__name__
        run.end(AttemptOutcome.FAILED, said, kind)
        scope = current_scope()
        if isinstance(scope, ChainScope):
            scope.model_error = error
        self._tree.fail(Failure(run, kind), self._parent(parent_run_id))

    # -- what is around them -------------------------------------------------------------------------

    def on_chain_start(
        self, *given: Any, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """A chain, a part of one, a tool or a retriever begins."""
        refuse_if_over(scope_of_run())
        self._tree.begin(run_id, self._parent(parent_run_id))

    on_tool_start = on_retriever_start = on_chain_start

    def on_chain_end(self, *made: Any, run_id: UUID, **kwargs: Any) -> None:
        """It is over."""
        self._tree.end(run_id)

    on_tool_end = on_retriever_end = on_chain_end

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """It has failed, or was ended from outside."""
        self._tree.end(run_id, error)

    on_tool_error = on_retriever_error = on_chain_error

    # -- inside --------------------------------------------------------------------------------------

    def _take(self, run_id: UUID) -> ModelRun | None:
        self._last = _NOBODY
        return self._runs.pop(run_id, None)

    def _parent(self, told: UUID | None) -> UUID | None:
        """The run around a new one: as told, or as the context says where a chain has not passed it on."""
        if told is not None or not len(self._tree):
            return told
        around = getattr(ensure_config().get("callbacks"), "parent_run_id", None)
        return around if isinstance(around, UUID) else None

    def _begin(self, run_id: UUID, parent_run_id: UUID | None, asked: Asked) -> None:
        if getattr(current_caller(), "run_id", None) == run_id:
            return  # Another handler sees to it.
        scope = scope_of_run()
        refuse_if_over(scope)
        failure = self._tree.take_failure(self._parent(parent_run_id))
        role = _role(failure, asked)
        session = live_session(scope)
        own = None
        if session is None:
            own = self._own_stream(scope, failure, asked)
            session = own.stream
            own.open()
        ends_with = scope.pump if isinstance(scope, ChainScope) else session
        run = ModelRun(session, ends_with, asked, role, run_id, parent_run_id)
        self._runs[run_id] = run
        if own is not None:
            run.own = own
            self._see_cancelled(run_id)
        begin_calls(run)
        if run.stopped:
            # Of a run that is refused at its start LangChain tells nothing more.
            self.on_llm_error(ChainStopped(), run_id=run_id)
            raise ChainStopped

    def _see_cancelled(self, run_id: UUID) -> None:
        """LangChain tells nothing of a call that is cancelled in `ainvoke()`: the end of its task does."""

        def over(task: asyncio.Task[Any]) -> None:
            run = self._runs.get(run_id)
            # A stream goes on in other tasks, and is told of.
            if run is not None and not run.chunks and task.cancelled():
                self.on_llm_error(asyncio.CancelledError(), run_id=run_id)

        with contextlib.suppress(RuntimeError):  # in a thread without a loop nothing is cancelled
            task = asyncio.current_task()
            if task is not None:
                task.add_done_callback(over)

    def _own_stream(self, scope: Scope | None, failure: Failure | None, asked: Asked) -> OwnStream:
        """The stream of a run that belongs to no other; a further try goes on with the first one's."""
        before = None if failure is None else failure.run.own
        if before is not None and cause_of_end(before.stream) is None:
            return before
        options = options_in(scope, self._options) | asked._asdict()
        return OwnStream(RecordedStream(**options), scope)


def _role(failure: Failure | None, asked: Asked) -> AttemptRole:
    if failure is None:
        return AttemptRole.FIRST
    return AttemptRole.RETRY if failure.run.same_model(asked) else AttemptRole.FALLBACK
