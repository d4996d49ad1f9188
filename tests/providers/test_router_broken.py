"""The router after visible output: resume, the cached answer, a partial ending, or the failure."""

from __future__ import annotations

from typing import Any

import pytest

from streamguard_core import (
    Cause,
    Chunk,
    ChunkKind,
    StreamSession,
    TruncatedStream,
    Unpriced,
    to_pico,
)
from streamguard_core.testing import run
from streamguard_ledger import PriceBook
from streamguard_providers import (
    AnthropicProducer,
    GeminiProducer,
    OllamaProducer,
    Route,
    RoutedCall,
    Router,
)
from streamguard_providers.errors import provider_error
from streamguard_testing import Fault, LoopbackEngine
from streamguard_testing.faults import Cut

from .recorder import Recorder, produce
from .routers import AT_ONCE, PROMPT, Provider, attempts, route, router_over, told, undisturbed
from .scripted_server import Answer, chunked, head, scripted
from .waiting import outcome
from .wire import DONE, event, token

UNASKED = Answer(head("application/json", status="400 X") + chunked(b"{}", end=True), then="next")
"""Of a server that must not be asked: it would end the test, and not hold it."""

BREAKS = [
    Fault(cut_after=17),
    Fault(cut_after=17, cut=Cut.ABRUPT),
    Fault(cut_after=17, cut=Cut.RESET),
    Fault(error_after=17),
]


@pytest.mark.parametrize("fault", BREAKS, ids=lambda fault: f"{fault.break_point()[0]} {fault.cut}")
async def test_dies_in_mid_sentence(fault: Fault) -> None:
    """The first engine dies in mid-sentence: the reader sees one uninterrupted text, the receipt two attempts."""
    async with (
        LoopbackEngine(answer_tokens=60, tokens_per_second=500, fault=fault) as first,
        LoopbackEngine(answer_tokens=60) as second,
    ):
        router = router_over(first, second, when_broken="resume")
        text, receipt = await told(router.producer("chat", prompt=PROMPT))
        assert text == await undisturbed(second)
        (begun,), (rest,) = first.requests, second.requests
        # A reset may overtake the last tokens; what the reader has not got is generated again.
        assert begun.generated + rest.generated >= 60 > rest.generated
    assert receipt.completed
    assert receipt.finish == "stop"
    assert [(provider, role) for provider, role, _ in attempts(receipt)] == [
        ("a", "first"),
        ("b", "resume"),
    ]
    assert attempts(receipt)[0][2] in {"truncated", "failed"}
    assert attempts(receipt)[1][2] == "completed"
    assert receipt.attempts[0].chunks >= 1
    assert receipt.usage.output.lower >= 1


def anthropic(url: str, name: str) -> Route:
    """A route to Anthropic's dialect."""
    return Route(AnthropicProducer, "m", base_url=url, provider=name, continues=True)


def ollama(url: str, name: str) -> Route:
    """A route to Ollama's dialect."""
    return Route(OllamaProducer, "m", base_url=url, provider=name)


def gemini(url: str, name: str) -> Route:
    """A route to Gemini's dialect."""
    base = f"{url}/v1beta"
    return Route(GeminiProducer, "m", base_url=base, provider=name, continues=True)


@pytest.mark.parametrize("begins", [route, anthropic, ollama])
@pytest.mark.parametrize("goes_on", [route, anthropic, ollama, gemini])
async def test_from_one_dialect_to_another(begins: Any, goes_on: Any) -> None:
    """A provider of another dialect goes on with the same text; each attempt has its own price (P31)."""
    book = PriceBook({"currency": "USD", "prices": [{"model": "m", "input": "1", "output": "1"}]})
    async with (
        LoopbackEngine(answer_tokens=40, fault=Fault(cut_after=17)) as first,
        LoopbackEngine(answer_tokens=40) as second,
    ):
        router = Router(
            {"chat": [begins(first.url, "a"), goes_on(second.url, "b")]}, when_broken="resume"
        )
        text, receipt = await told(router.producer("chat", prompt=PROMPT), prices=book)
        assert text == await undisturbed(second)
        (record,) = second.requests
        assert record.generated == 23
    assert receipt.completed
    broken, whole = receipt.attempts
    assert whole.price is not None
    assert whole.price.total is not None
    assert to_pico(whole.price.total) == 1_000_000 * (record.prompt_tokens + record.generated)
    # What a call that broke off has cost its provider did not say (G12): the sum is a lower bound.
    assert broken.price is not None
    assert broken.price.unpriced is Unpriced.UNKNOWN_USAGE
    assert receipt.price.total is None
    assert receipt.price.lower is not None
    assert to_pico(receipt.price.lower) >= to_pico(whole.price.total)


@pytest.mark.parametrize("begins", [route, gemini])
@pytest.mark.parametrize("goes_on", [anthropic, gemini])
async def test_a_conversation_reaches_every_dialect(begins: Any, goes_on: Any) -> None:
    """Messages with a system's among them are asked of each provider as it takes them; the text is one."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": [{"type": "text", "text": PROMPT}]},
    ]
    async with (
        LoopbackEngine(answer_tokens=40, fault=Fault(cut_after=17)) as first,
        LoopbackEngine(answer_tokens=40) as second,
    ):
        router = Router(
            {"chat": [begins(first.url, "a"), goes_on(second.url, "b")]}, when_broken="resume"
        )
        text, receipt = await told(router.producer("chat", messages=messages))
        assert text == await undisturbed(second)
        assert second.requests[0].generated == 23
    assert receipt.completed


async def test_what_is_asked_of_the_one_who_goes_on() -> None:
    """The text so far is the assistant's, last in the conversation, and what is left of the cap is the cap."""
    broken = Answer(head() + chunked(token("The river "), token("is")), then="close")
    rest = Answer(head() + chunked(token(" long."), token("", "stop"), DONE, end=True), then="next")
    async with scripted(broken) as first, scripted(rest) as second:
        router = router_over(first, second, when_broken="resume")
        text, receipt = await told(router.producer("chat", prompt=PROMPT, max_tokens=9))
        assert text == "The river is long."
        assert receipt.completed
        assert first.bodies[0]["max_tokens"] == 9
        assert second.bodies[0]["max_tokens"] == 7
        assert second.bodies[0]["messages"] == [
            {"role": "user", "content": PROMPT},
            {"role": "assistant", "content": "The river is"},
        ]


async def test_a_chain_of_breaks() -> None:
    """One that goes on may break off as well: the next goes on after all of the text, up to the bound."""
    parts = [
        Answer(head() + chunked(token(word)), then="close") for word in ("One", " two", " three")
    ]
    end = Answer(head() + chunked(token(" four"), token("", "stop"), DONE, end=True), then="next")
    async with scripted(parts[0], parts[2]) as first, scripted(parts[1], end) as second:
        router = router_over(first, second, when_broken="resume", resumes=3)
        text, receipt = await told(router.producer("chat", prompt=PROMPT))
        prefixes = [body["messages"][-1]["content"] for body in (*second.bodies, first.bodies[1])]
    assert text == "One two three four"
    assert prefixes == ["One", "One two three", "One two"]
    assert receipt.completed
    assert [role for _, role, _ in attempts(receipt)] == ["first", "resume", "resume", "resume"]


@pytest.mark.parametrize("resumes", [0, 1, 2])
async def test_resumes_are_bounded(resumes: int) -> None:
    """An answer that breaks off again and again is gone on with so many times, and no more."""
    calls = [Answer(head() + chunked(token(f"{word}, ")), then="close") for word in range(9)]
    async with scripted(*calls) as only:
        router = router_over(only, when_broken=("resume", "partial"), resumes=resumes)
        text, receipt = await told(router.producer("chat", prompt=PROMPT))
    assert text == "0, 1, 2, "[: 3 * (resumes + 1)]
    assert receipt.cause is Cause.TRUNCATED


async def test_one_who_fails_before_it_goes_on_is_passed_over() -> None:
    """A resumption that is refused goes to the same route again, then to the next that can."""
    async with (
        LoopbackEngine(answer_tokens=30, fault=Fault(cut_after=9)) as first,
        LoopbackEngine(fault=Fault(status=503)) as second,
        LoopbackEngine(answer_tokens=30) as third,
    ):
        router = router_over(first, second, third, when_broken="resume")
        text, receipt = await told(router.producer("chat", prompt=PROMPT))
        assert text == await undisturbed(third)
    assert [(provider, role) for provider, role, _ in attempts(receipt)] == [
        ("a", "first"),
        ("b", "resume"),
        ("b", "resume"),
        ("c", "resume"),
    ]


async def test_nobody_can_go_on() -> None:
    """Without a route that can go on after a text, nobody is asked to: the ending is the next in order."""
    async with LoopbackEngine(fault=Fault(cut_after=5)) as first, LoopbackEngine() as second:
        routes = [
            route(each.url, "ab"[at], continues=False) for at, each in enumerate((first, second))
        ]
        router = Router({"chat": routes}, when_broken=("resume", "partial"))
        _, receipt = await told(router.producer("chat", prompt=PROMPT))
        assert len(second.requests) == 0
    assert receipt.cause is Cause.TRUNCATED
    assert "it cannot go on after a text" in receipt.detail


async def test_partial() -> None:
    """A partial ending is truncated, keeps what was read, and says what broke off (G13)."""
    async with LoopbackEngine(fault=Fault(error_after=5)) as first, LoopbackEngine() as second:
        router = router_over(first, second)  # `partial` is the default
        session = StreamSession(router.producer("chat", prompt=PROMPT))
        async with session:
            chunks = [chunk async for chunk in session]
        receipt = await session.receipt()
        assert len(second.requests) == 0
    assert len(chunks) == receipt.consumed == 5
    assert receipt.cause is Cause.TRUNCATED
    assert "the answer is partial" in receipt.detail
    assert "a (" in receipt.detail
    assert attempts(receipt) == [("a", "first", "failed")]


async def test_fail() -> None:
    """With `fail` the provider's failure is the stream's."""
    async with LoopbackEngine(fault=Fault(error_after=5)) as first, LoopbackEngine() as second:
        router = router_over(first, second, when_broken="fail")
        _, receipt = await told(router.producer("chat", prompt=PROMPT))
        assert len(second.requests) == 0
    assert receipt.cause is Cause.PRODUCER_ERROR
    assert receipt.detail.startswith("ProviderError: a ")


async def test_an_answer_whose_finish_was_said_is_not_gone_on_with() -> None:
    """When only the terminal marker is missing there is no text to add: truncated, and nobody is called."""
    cut = Answer(head() + chunked(token("All of it."), token("", "stop")), then="close")
    async with scripted(cut) as first, scripted(UNASKED) as second:
        router = router_over(first, second, when_broken="resume")
        text, receipt = await told(router.producer("chat", prompt=PROMPT))
        assert (text, second.requests) == ("All of it.", [])
    assert (receipt.cause, receipt.finish) == (Cause.TRUNCATED, "stop")


async def test_tool_calls_are_not_gone_on_with() -> None:
    """A text prefix cannot carry a tool call that was begun: nobody is asked to go on."""
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}
    said = event({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})
    async with (
        scripted(Answer(head() + chunked(said), then="close")) as first,
        scripted(UNASKED) as second,
    ):
        router = router_over(first, second, when_broken=("resume", "partial"))
        _, receipt = await told(router.producer("chat", prompt=PROMPT))
        assert second.requests == []
    assert receipt.cause is Cause.TRUNCATED


def test_one_that_died_thinking_begins_anew() -> None:
    """Where only reasoning was visible the answer is begun anew, and the new reasoning is not shown."""

    async def main() -> None:
        thought = Chunk("Hm. ", kind=ChunkKind.REASONING)
        calls = Provider([thought, provider_error("p", retryable=True)], [thought, "Well."])
        router = Router({"chat": Route(calls.make, "m")}, when_broken="resume", retries=AT_ONCE)
        text, receipt = await told(router.producer("chat", prompt=PROMPT))
        assert text == "Hm. Well."
        assert [str(each.role) for each in receipt.attempts] == ["first", "resume"]

    run(main())


# -- the cached answer -------------------------------------------------------------------------


def cached(answer: Any, calls: list[RoutedCall]) -> Any:
    """A cache, which notes what it was asked for."""

    async def look(call: RoutedCall) -> Any:
        calls.append(call)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return look


BROKEN = ["It ", "was ", provider_error("p", status=500, retryable=True)]


@pytest.mark.parametrize(
    ("answer", "text", "cause"),
    [
        ("It was the best of times.", "It was the best of times.", Cause.COMPLETED),
        (["It wa", "s the ", "best."], "It was the best.", Cause.COMPLETED),
        ("It was ", "It was ", Cause.COMPLETED),
        ("Another answer.", "It was ", Cause.TRUNCATED),
        (None, "It was ", Cause.TRUNCATED),
        (OSError("the cache is down"), "It was ", Cause.TRUNCATED),
    ],
    ids=repr,
)
async def test_the_cached_answer(answer: Any, text: str, cause: Cause) -> None:
    """A cached answer that begins with the text so far provides the rest; any other one is of no use."""
    asked: list[RoutedCall] = []
    provider = Provider(BROKEN)
    router = Router(
        {"chat": Route(provider.make, "m")},
        when_broken=("cached", "partial"),
        cached=cached(answer, asked),
    )
    got, receipt = await told(router.producer("chat", prompt=PROMPT, max_tokens=9))
    assert (got, receipt.cause) == (text, cause)
    (call,) = asked
    assert (call.model, call.prompt, call.options) == ("chat", PROMPT, {"max_tokens": 9})
    assert PROMPT not in repr(call)
    assert len(provider.calls) == 1


async def test_the_cached_answer_before_anything_is_visible() -> None:
    """Where no route answers at all, the whole cached answer is given, by a plain function as well."""
    provider = Provider([provider_error("p", status=503)])
    router = Router(
        {"chat": Route(provider.make, "m")},
        when_broken=("resume", "cached"),
        cached=lambda call: "From the cache.",
        retries=0,
    )
    text, receipt = await told(router.producer("chat", prompt=PROMPT))
    assert (text, receipt.cause) == ("From the cache.", Cause.COMPLETED)
    assert attempts(receipt) == [("make", "first", "failed")]


async def test_the_cached_answer_after_a_call_without_its_end() -> None:
    """A stream that a cached answer made whole is completed, although its last call was not whole (G13)."""
    provider = Provider(["It ", "was ", TruncatedStream("no terminal marker")])
    router = Router(
        {"chat": Route(provider.make, "m")},
        when_broken=("cached", "partial"),
        cached=lambda call: "It was the best of times.",
    )
    text, receipt = await told(router.producer("chat", prompt=PROMPT))
    assert attempts(receipt) == [("make", "first", "truncated")]
    assert (text, receipt.cause) == ("It was the best of times.", Cause.COMPLETED)
    assert receipt.finish == "cached"


async def test_the_failure_behind_a_partial_ending() -> None:
    """Outside of a session the ending is an exception, whose cause is the provider's failure."""
    router = Router({"chat": Route(Provider(BROKEN).make, "m")})
    report = Recorder()
    failure = await outcome(produce(router.producer("chat", prompt=PROMPT), report))
    assert report.chunks == ["It ", "was "]
    assert isinstance(failure, TruncatedStream)
    assert failure.__cause__ is BROKEN[-1]
