"""Nothing of LangChain's own behaviour is lost: the same chain guarded and not, with its core alone."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_core.tracers.log_stream import RunLog

from streamguard_core import Cause, MemoryLedger, Notice, Scope, use_scope
from streamguard_langchain import ChainStopped, GuardedRunnable, StreamGuardCallbackHandler, guard

from .receipts import Receipts

GIVEN = {"question": "why"}


def model(answer: str = "never again") -> FakeListChatModel:
    """A model that always answers the same."""
    return FakeListChatModel(responses=[answer])


class Louder(FakeListChatModel):
    """A model that makes another Runnable of itself, as `bind_tools()` does."""

    def louder(self) -> Runnable[Any, str]:
        """The same, louder."""
        return self | StrOutputParser() | RunnableLambda(str.upper)


def broken(given: Any) -> str:
    """A part of a chain that fails."""
    raise ValueError("broken")


PROMPT = ChatPromptTemplate.from_template("{question}")
FAILS: Runnable[Any, Any] = PROMPT | RunnableLambda(broken)
CHAINS: dict[str, Runnable[Any, Any]] = {
    "sequence": PROMPT | model() | StrOutputParser(),
    "model": PROMPT | model(),
    "parallel": PROMPT | RunnableParallel(a=model(), b=model() | StrOutputParser()),
    "assign": RunnablePassthrough.assign(answer=PROMPT | model()),
    "none": RunnableLambda(lambda _: None),
    "broken": PROMPT | model() | RunnableLambda(broken),
    "fallback": FAILS.with_fallbacks([PROMPT | model()]),
    "bound": PROMPT | model().bind(stop=["x"]).with_config(tags=["t"], run_name="named"),
}

_OF_A_RUN: Final = ("id", "run_id", "parent_ids", "parent_run_id", "start_time", "end_time")


def plain(value: Any) -> Any:
    """A value without what differs from run to run: ids, times, and the order in which branches come."""
    if isinstance(value, str):
        return re.sub(r"(lc_)?run-[-0-9a-f]+", "ID", value)
    if isinstance(value, list | tuple):
        # Of a log as it grows, what it comes to.
        grown = [item for item in value if isinstance(item, RunLog)][:-1]
        items = [item for item in value if not any(item is each for each in grown)]
        return sorted((plain(item) for item in items), key=repr)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in _OF_A_RUN}
    if isinstance(value, RunLog):
        return plain(value.state | {"logs": [*value.state["logs"].values()]})
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    return repr(value) if isinstance(value, BaseException) else value


async def outcome_of(made: Any) -> Any:
    """What comes of an awaitable, an iterator of either kind or a call, be it an error."""
    found: list[Any] = []
    try:
        if hasattr(made, "__aiter__"):
            async for item in made:
                found.append(item)  # noqa: PERF401 - what came before an error counts
        elif hasattr(made, "__await__"):
            found.append(await made)
        else:
            for item in made:
                found.append(item)  # noqa: PERF402 - the same
    except Exception as error:  # noqa: BLE001 - it is compared
        found.append(error)
    return plain(found)


def calls(chain: Runnable[Any, Any]) -> dict[str, Any]:
    """All ways in which a chain is called, begun."""

    def invoke() -> Iterator[Any]:
        yield chain.invoke(GIVEN)

    def batch() -> Iterator[Any]:
        yield chain.batch([GIVEN, GIVEN], return_exceptions=True)

    async def given() -> AsyncIterator[Any]:
        yield GIVEN

    return {
        "invoke": invoke(),
        "ainvoke": chain.ainvoke(GIVEN),
        "stream": chain.stream(GIVEN),
        "astream": chain.astream(GIVEN),
        "batch": batch(),
        "abatch": chain.abatch([GIVEN, GIVEN], return_exceptions=True),
        "batch_as_completed": chain.batch_as_completed([GIVEN], return_exceptions=True),
        "transform": chain.transform(iter([GIVEN])),
        "atransform": chain.atransform(given()),
        "astream_events": chain.astream_events(GIVEN, version="v2"),
        "astream_log": chain.astream_log(GIVEN, diff=False),
        "composed": (chain | RunnableLambda(repr)).astream(GIVEN),
        "configured": chain.with_config(run_name="r", tags=["x"]).astream_events(
            GIVEN, version="v2"
        ),
        "retried": chain.with_retry(stop_after_attempt=2).ainvoke(GIVEN),
    }


WAYS = [
    *("invoke", "ainvoke", "stream", "astream", "batch", "abatch", "batch_as_completed"),
    *(
        "transform",
        "atransform",
        "astream_events",
        "astream_log",
        "composed",
        "configured",
        "retried",
    ),
]


@pytest.mark.filterwarnings("ignore:astream_log is deprecated")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CHAINS)
async def test_same_results(name: str, way: str) -> None:
    """Items, results, events and errors are the same, guarded and not."""
    results = []
    for chain in (CHAINS[name], guard(CHAINS[name])):
        begun = calls(chain)
        results.append(await outcome_of(begun.pop(way)))
        for other in begun.values():
            if hasattr(other, "__await__"):
                other.close()
    assert results[0] == results[1]
    assert results[0]
    assert "Deprecation" not in repr(results[0])


@pytest.mark.parametrize("name", CHAINS)
def test_same_face(name: str) -> None:
    """Types, schemas, name, graph and config are the same."""
    bare, guarded = CHAINS[name], guard(CHAINS[name])
    assert (guarded.InputType, guarded.OutputType) == (bare.InputType, bare.OutputType)
    assert guarded.get_name() == bare.get_name()
    assert guarded.get_input_jsonschema() == bare.get_input_jsonschema()
    assert guarded.get_output_jsonschema() == bare.get_output_jsonschema()
    assert guarded.config_specs == bare.config_specs
    nodes = [each.name for each in guarded.get_graph().nodes.values()]
    assert nodes == [each.name for each in bare.get_graph().nodes.values()]
    assert len(guarded.get_prompts()) == len(bare.get_prompts())


def test_what_it_makes_is_guarded(receipts: Receipts) -> None:
    """A method of a guarded model that makes another Runnable makes a guarded one; other attributes are its own."""
    guarded = guard(Louder(responses=["never"]), on_receipt=receipts.append)
    assert guarded.responses == ["never"]
    assert guarded.louder().invoke("?") == "NEVER"
    assert receipts.one.cause is Cause.COMPLETED
    with pytest.raises(AttributeError):
        _ = guarded.no_such_thing
    assert isinstance(guard(lambda x: x), GuardedRunnable)
    assert not guarded.is_lc_serializable()


def test_error_of_the_application(receipts: Receipts) -> None:
    """What a parser or a tool raises is the application's, and not the provider's (G14)."""
    chain = guard(PROMPT | model() | RunnableLambda(broken), on_receipt=receipts.append)
    with pytest.raises(ValueError, match="broken"):
        chain.invoke(GIVEN)
    assert receipts.one.cause is Cause.CONSUMER_ERROR
    assert "broken" not in json.dumps(receipts.one.to_record())


def test_no_prompt_and_no_answer_on_a_receipt(receipts: Receipts) -> None:
    """Neither what is asked nor what is answered stands in a receipt, nor in a repr of the handler."""
    handler = StreamGuardCallbackHandler(on_receipt=receipts.append)
    (PROMPT | model("the secret")).invoke({"question": "my secret"}, {"callbacks": [handler]})
    assert "secret" not in json.dumps(receipts.one.to_record()) + repr(handler)
    assert ChainStopped.generations == ()
    assert ChainStopped.llm_output is None


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "handler"])
def test_scope_has_what_a_stream_has_not(guarded: bool) -> None:
    """In a request without a stream a chain's has the request's ledger, tags and observers, and its own before them."""
    ledger, own = MemoryLedger(), MemoryLedger()
    seen: list[Notice] = []
    scope = Scope(ledger=ledger, tags={"tenant": "a"}, observers=(seen.append,))

    def call(**options: Any) -> None:
        chain, handler = PROMPT | model(), StreamGuardCallbackHandler(**options)
        with use_scope(scope):
            if guarded:
                guard(chain, **options).invoke(GIVEN)
            else:
                chain.invoke(GIVEN, {"callbacks": [handler]})

    call()
    assert [receipt.tags for receipt in ledger.receipts] == [{"tenant": "a"}]
    told = len(seen)
    assert told > 0
    call(ledger=own, tags={"tenant": "b"})
    assert [receipt.tags for receipt in own.receipts] == [{"tenant": "b"}]
    assert (len(ledger.receipts), len(seen)) == (1, 2 * told)
    assert scope.members == []
