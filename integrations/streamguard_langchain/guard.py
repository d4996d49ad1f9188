"""`guard`: a Runnable as it was, whose streams end with their readers and leave a receipt each."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from typing import Any, Final, TypedDict, Unpack, cast

from streamguard_core import (
    Clock,
    Deadlines,
    Ledger,
    Observer,
    Pricer,
    StreamSession,
    Termination,
    TerminationLookup,
)
from streamguard_core.policies import OnDisconnect
from streamguard_langchain._langchain import (
    BaseCallbackManager,
    Input,
    Output,
    Runnable,
    RunnableBindingBase,
    RunnableConfig,
    coerce_to_runnable,
)
from streamguard_langchain.calls import ChainCall, once, once_async, only, only_async
from streamguard_langchain.handler import StreamGuardCallbackHandler
from streamguard_langchain.pumping import pull, pull_sync
from streamguard_langchain.receipts import OnReceipt, telling


class GuardOptions(TypedDict, total=False):
    """The keywords of `guard()`, each as for `StreamSession`, and `on_receipt`."""

    model: str | None
    provider: str | None
    max_tokens: int | None
    tags: Mapping[str, str] | None
    deadlines: Deadlines | None
    on_disconnect: OnDisconnect
    termination: Termination | TerminationLookup | None
    ledger: Ledger | None
    clock: Clock | None
    observers: tuple[Observer, ...]
    prices: Pricer | None
    on_receipt: OnReceipt | None


def guard(
    runnable: Runnable[Input, Output] | Callable[..., Any] | Mapping[str, Any],
    **options: Unpack[GuardOptions],
) -> GuardedRunnable[Input, Output]:
    """Govern whatever a chain, a model, an agent or a graph generates.

    What comes back is used like `runnable`: it has its types, schemas, name and attributes, streams the
    same items and events, and composes in the same ways. Each call of `stream`, `astream`,
    `transform`, `invoke`, `ainvoke` and `astream_events` is one stream with one receipt, on which
    every run of a model is an attempt; within a guarded endpoint, or a guarded chain, it is a part of
    that one's stream. The runs of a `batch` have receipts of their own.

    When the reader leaves (a disconnect seen by the middleware, a `break` that closes the iterator, a
    cancelled task), the providers' connections are closed, nothing more is called, and nothing that
    ran is left behind.

    Args:
        runnable: anything that LangChain takes for a Runnable.
        options: see `GuardOptions`.

    Raises:
        UsageError: when an option is out of range.
        TypeError: when `runnable` is none.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> receipts = []
        >>> chain = guard(FakeListChatModel(responses=["never"]), on_receipt=receipts.append)
        >>> "".join(chunk.text for chunk in chain.stream("?"))
        'never'
        >>> str(receipts[0].cause), len(receipts[0].attempts)
        ('COMPLETED', 1)
    """
    settled: dict[str, Any] = dict(options)
    on_receipt = settled.pop("on_receipt", None)
    if on_receipt is not None:
        settled["observers"] = (*settled.get("observers", ()), telling(on_receipt))
    # What is out of range is said where it was written, not when the first reader comes.
    StreamSession(None, **settled)
    return GuardedRunnable(
        bound=cast(Any, coerce_to_runnable(cast(Any, runnable))), guarding=settled
    )


class GuardedRunnable(RunnableBindingBase[Input, Output]):
    """What `guard()` returns: a Runnable bound to its guard."""

    guarding: dict[str, Any]
    """The options of its sessions."""

    def __init__(self, *, bound: Runnable[Input, Output], guarding: dict[str, Any]) -> None:
        handler = _handler(guarding)

        def watched(config: RunnableConfig) -> RunnableConfig:
            """See that our handler is among the callbacks, once."""
            callbacks = config.get("callbacks")
            given = callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else callbacks
            if any(isinstance(each, StreamGuardCallbackHandler) for each in given or ()):
                return {}
            return {"callbacks": [handler]}

        super().__init__(bound=bound, config_factories=[watched], guarding=guarding)

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """A ledger cannot be written into a file of LangChain's."""
        return False

    # -- streams -------------------------------------------------------------------------------------

    def stream(
        self,
        input: Input,  # noqa: A002 - LangChain calls it so, and by this name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Output]:
        """Stream as the runnable does, under guard."""
        return self._pull_sync(self.bound.stream, input, config, kwargs)

    def astream(
        self,
        input: Input,  # noqa: A002 - LangChain calls it so, and by this name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Output]:
        """Stream as the runnable does, under guard."""
        return self._pull(self.bound.astream, input, config, kwargs)

    def transform(
        self,
        input: Iterator[Input],  # noqa: A002 - LangChain calls it so, and by this name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Output]:
        """Transform as the runnable does, under guard."""
        return self._pull_sync(self.bound.transform, input, config, kwargs)

    def atransform(
        self,
        input: AsyncIterator[Input],  # noqa: A002 - LangChain calls it so, and by this name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Output]:
        """Transform as the runnable does, under guard."""
        return self._pull(self.bound.atransform, input, config, kwargs)

    def astream_events(
        self,
        input: Input,  # noqa: A002 - LangChain calls it so, and by this name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """The runnable's events, under guard.

        Those of version 3 are an object of LangChain's that is not iterated here: the models' runs
        behind it are governed, and have receipts of their own.
        """
        if kwargs.get("version") == "v3":
            return super().astream_events(input, config, **kwargs)
        return self._pull(self.bound.astream_events, input, config, kwargs)

    def invoke(
        self,
        input: Input,  # noqa: A002 - LangChain calls it so, and by this name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Output:
        """Invoke as the runnable does, under guard."""
        result: Output = only(self._pull_sync(once(self.bound.invoke), input, config, kwargs))
        return result

    async def ainvoke(
        self,
        input: Input,  # noqa: A002 - LangChain calls it so, and by this name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Output:
        """Invoke as the runnable does, under guard."""
        stream = self._pull(once_async(self.bound.ainvoke), input, config, kwargs)
        result: Output = await only_async(stream)
        return result

    def __getattr__(self, name: str) -> Any:
        """What the runnable has besides; a method that makes a Runnable of it makes a guarded one."""
        if name.startswith("_") or name in type(self).model_fields:
            return super().__getattr__(name)  # type: ignore[misc]
        found = getattr(self.bound, name)
        if not inspect.ismethod(found):
            return found

        @functools.wraps(found)
        def guarded(*arguments: Any, **keywords: Any) -> Any:
            made = found(*arguments, **keywords)
            if isinstance(made, Runnable) and not isinstance(made, GuardedRunnable):
                return GuardedRunnable(bound=made, guarding=self.guarding)
            return made

        return guarded

    # -- inside --------------------------------------------------------------------------------------

    def _call(
        self, method: Any, given: Any, config: RunnableConfig | None, kwargs: dict[str, Any]
    ) -> ChainCall:
        return ChainCall(method, given, self._merge_configs, config, kwargs)

    def _pull(self, *call: Any) -> AsyncGenerator[Any, None]:
        return pull(self._call(*call), self.guarding)

    def _pull_sync(self, *call: Any) -> Generator[Any, None, None]:
        return pull_sync(self._call(*call), self.guarding)


def _handler(guarding: dict[str, Any]) -> StreamGuardCallbackHandler:
    """What sees the runs of a guarded runnable's models; its options are for those of a `batch`."""
    return StreamGuardCallbackHandler(
        **{name: guarding[name] for name in _OF_RUNS if name in guarding}
    )


_OF_RUNS: Final = ("ledger", "prices", "observers", "tags")
