"""The router before anything is visible: retries, the next route, breakers, pace, and what it says."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import Any

import msgspec
import pytest

from streamguard_core import AttemptRole, Cause, UsageError
from streamguard_core.testing import run
from streamguard_providers import (
    AnthropicProducer,
    BreakerRule,
    BreakerState,
    OllamaProducer,
    OpenAIProducer,
    Retries,
    Route,
    Router,
    RoutesFailed,
)
from streamguard_providers.errors import provider_error
from streamguard_testing import Fault, LoopbackEngine, free_port

from .recorder import Recorder, produce
from .routers import (
    AT_ONCE,
    KEY,
    PROMPT,
    Provider,
    attempts,
    route,
    router_over,
    told,
    undisturbed,
)
from .waiting import outcome


class Nowhere:
    """A server that is not there."""

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"


async def test_a_fallback_is_invisible() -> None:
    """A route that dies before its first token is tried again, then the next one answers; the reader sees one text."""
    async with (
        LoopbackEngine(answer_tokens=20, fault=Fault(status=503)) as first,
        LoopbackEngine(answer_tokens=20) as second,
    ):
        text, receipt = await told(router_over(first, second).producer("chat", prompt=PROMPT))
        assert text == await undisturbed(second)
        assert (len(first.requests), len(second.requests)) == (2, 1)
    assert receipt.completed
    assert attempts(receipt) == [
        ("a", "first", "failed"),
        ("a", "retry", "failed"),
        ("b", "fallback", "completed"),
    ]
    assert [each.status for each in receipt.attempts] == [503, 503, 200]
    assert receipt.attempts[-1].usage is not None
    assert receipt.usage.output.value == receipt.attempts[-1].usage.output.value == 20


@pytest.mark.parametrize(
    "fault",
    [Fault(cut_after=0), Fault(error_after=0), Fault(status=401), Fault(status=404)],
    ids=repr,
)
async def test_however_it_dies_before_the_first_token(fault: Fault) -> None:
    """An end without a token, an error frame and a key that is refused lead to the next route as well."""
    async with (
        LoopbackEngine(answer_tokens=8, fault=fault) as first,
        LoopbackEngine(answer_tokens=8) as second,
    ):
        text, receipt = await told(router_over(first, second).producer("chat", prompt=PROMPT))
        assert text == await undisturbed(second)
    assert receipt.completed
    assert receipt.attempts[-1].role is AttemptRole.FALLBACK


async def test_a_route_that_recovers_is_only_retried() -> None:
    """A failure that passes is over after one retry; the next route hears nothing of it."""
    calls = Provider([provider_error("p", status=503, retryable=True)], ["fine"])
    spare = Provider(["spare"])
    router = Router({"chat": [Route(calls.make, "m"), Route(spare.make, "m")]}, retries=AT_ONCE)
    text, receipt = await told(router.producer("chat", prompt=PROMPT))
    assert (text, spare.calls) == ("fine", [])
    assert [str(each.role) for each in receipt.attempts] == ["first", "retry"]


async def test_all_dead(caplog: pytest.LogCaptureFixture) -> None:
    """When no route answers the error names what was tried, and neither key nor prompt nor what they said."""
    caplog.set_level(logging.DEBUG)
    secret = "the words of the provider"
    async with LoopbackEngine(fault=Fault(status=503, error_message=secret)) as first:
        router = router_over(first, Nowhere())
        failure = await outcome(produce(router.producer("chat", prompt=PROMPT), Recorder()))
        assert isinstance(failure, RoutesFailed)
        _, receipt = await told(router.producer("chat", prompt=PROMPT))
    assert [name for name, _ in failure.tried] == ["a", "a", "b", "b"]
    assert "a (" in str(failure)
    assert "503" in str(failure)
    assert "b (ConnectError)" in str(failure)
    assert (receipt.cause, len(receipt.attempts)) == (Cause.PRODUCER_ERROR, 4)
    said = [caplog.text, repr(router), repr(router.health()), receipt.detail]
    said += [
        "".join(traceback.format_exception(failure)),
        msgspec.json.encode(receipt).decode(),
    ]
    assert [text for text in said if KEY in text or PROMPT in text or secret in text] == []


async def test_a_request_that_is_wrong_is_wrong_everywhere() -> None:
    """What a provider refuses for what it asks is neither retried nor sent elsewhere, and no route is to blame."""
    async with LoopbackEngine(fault=Fault(status=400)) as first, LoopbackEngine() as second:
        router = router_over(first, second, breaker=BreakerRule(failures=1))
        _, receipt = await told(router.producer("chat", prompt=PROMPT))
        assert (len(first.requests), len(second.requests)) == (1, 0)
        assert {each.state for each in router.health()} == {BreakerState.CLOSED}
        willing = router_over(first, second, elsewhere=True)
        assert (await told(willing.producer("chat", prompt=PROMPT)))[1].completed
    assert receipt.cause is Cause.PRODUCER_ERROR
    assert receipt.detail.endswith(
        "a (invalid_request_error, status 400), b (not called: the request itself was refused, and"
        " `elsewhere` is False); change what is asked for"
    )


async def test_a_breaker_opens_and_one_probe_heals_it() -> None:
    """After failures in a row a route is passed over unasked; one of many callers probes it, and it is back."""
    now = 0.0
    async with (
        LoopbackEngine(answer_tokens=4, fault=Fault(status=503)) as first,
        LoopbackEngine(answer_tokens=4) as second,
    ):
        router = router_over(
            first,
            second,
            retries=0,
            breaker=BreakerRule(failures=3, cooldown=10.0),
            clock=lambda: now,
        )

        async def call() -> str | None:
            _, receipt = await told(router.producer("chat", prompt=PROMPT))
            assert receipt.completed
            return receipt.attempts[-1].provider

        for _ in range(6):
            assert await call() == "b"
        assert len(first.requests) == 3
        assert [str(each.state) for each in router.health()] == ["open", "closed"]
        now, first.fault = 10.0, Fault(first_token_delay=0.2)
        who = await asyncio.gather(*[call() for _ in range(5)])
        assert sorted(map(str, who)) == ["a", "b", "b", "b", "b"]
        assert [str(each.state) for each in router.health()] == ["closed", "closed"]
        first.fault = Fault()
        assert await call() == "a"


async def test_a_producer_that_fails_before_it_iterates() -> None:
    """One whose `stream` raises is a failed attempt as any other: the next route answers, the breaker learns."""

    class Broken:
        def stream(self, *, report: Any) -> Any:
            raise OSError("before there is an iterator")

    router = Router(
        {"chat": [Route(lambda *_, **__: Broken(), "m"), Route(Provider(["fine"]).make, "m")]},
        breaker=BreakerRule(failures=1),
    )
    text, receipt = await told(router.producer("chat", prompt=PROMPT))
    assert (text, len(receipt.attempts)) == ("fine", 2)
    assert router.health()[0].state is BreakerState.OPEN


async def test_all_breakers_open() -> None:
    """When every breaker is open nobody is called, and the error says so."""
    async with LoopbackEngine(fault=Fault(status=503)) as first:
        router = router_over(first, retries=0, breaker=BreakerRule(failures=1))
        await told(router.producer("chat", prompt=PROMPT))
        _, receipt = await told(router.producer("chat", prompt=PROMPT))
        assert len(first.requests) == 1
    assert "not called: its breaker is open" in receipt.detail
    assert receipt.attempts == ()


def limited(seconds: float | None) -> Exception:
    """A refusal for the rate."""
    return provider_error("p", {"type": "rate_limit_error"}, status=429, retry_after=seconds)


def on_virtual_time(*providers: Provider, **options: Any) -> Router:
    """A router over providers without servers, on the clock of the running loop."""
    clock = asyncio.get_running_loop().time
    for provider in providers:
        provider.clock = clock
    routes = [
        Route(each.make, "m", provider=name) for each, name in zip(providers, "abc", strict=False)
    ]
    return Router({"chat": routes}, clock=clock, **options)


def test_retry_after_is_respected() -> None:
    """A route that asks for seven seconds is not called in them, by this stream or another."""

    async def main() -> None:
        only = Provider([limited(7.0)], ["fine"])
        router = on_virtual_time(only)
        first = asyncio.ensure_future(told(router.producer("chat", prompt=PROMPT)))
        await asyncio.sleep(3.0)
        assert router.health()[0].wait == 4.0
        second = await told(router.producer("chat", prompt=PROMPT))
        assert [text for text, _ in (await first, second)] == ["fine", "fine"]
        assert only.calls[0] == 0.0
        assert min(only.calls[1:]) >= 7.0
        assert only.calls[2] - only.calls[1] >= 0.09
        assert router.health()[0].state is BreakerState.CLOSED

    run(main())


def test_a_route_that_asks_to_wait_is_passed_over() -> None:
    """Another route that is free answers at once; the first is asked again when its time has come."""

    async def main() -> None:
        first, second = Provider([limited(7.0)], ["first"]), Provider(["second"])
        router = on_virtual_time(first, second)
        for _ in range(3):
            assert (await told(router.producer("chat", prompt=PROMPT)))[0] == "second"
        assert (first.calls, second.calls) == ([0.0], [0.0, 0.0, 0.0])
        await asyncio.sleep(7.0)
        assert (await told(router.producer("chat", prompt=PROMPT)))[0] == "first"

    run(main())


def test_one_that_is_down_and_asks_to_wait_is_passed_over() -> None:
    """A 503 with `retry-after` keeps no reader waiting while another route is free; alone it is waited for."""

    async def main() -> None:
        down = provider_error("p", status=503, retry_after=7.0)
        for spare in ([], [Provider(["second"])]):
            first = Provider([down], ["first"])
            router = on_virtual_time(first, *spare)
            began = first.clock()
            text, _ = await told(router.producer("chat", prompt=PROMPT))
            assert (text, first.clock() - began) == (("second", 0.0) if spare else ("first", 7.0))

    run(main())


def test_a_wait_that_is_too_long_is_said() -> None:
    """Where every route asks for more than is waited, the error says how long; nothing is called in vain."""

    async def main() -> None:
        only = Provider([limited(600.0)])
        router = on_virtual_time(only)
        for _ in range(2):
            failure = await outcome(produce(router.producer("chat", prompt=PROMPT), Recorder()))
            assert isinstance(failure, RoutesFailed)
            assert failure.retry_after == 600.0
        assert only.calls == [0.0]

    run(main())


def test_the_pace_slows_and_recovers() -> None:
    """After refusals a route's calls go one by one; answers bring the pace back."""

    async def main() -> None:
        only = Provider([limited(0.0)], [limited(0.0)], ["fine"])
        router = on_virtual_time(only, retries=Retries(most=3, random=lambda: 0.0), patience=60.0)
        await told(router.producer("chat", prompt=PROMPT))
        assert router.health()[0].interval == pytest.approx(0.18)
        await asyncio.gather(*[told(router.producer("chat", prompt=PROMPT)) for _ in range(4)])
        gaps = [b - a for a, b in zip(only.calls[2:], only.calls[3:], strict=False)]
        assert min(gaps) > 0.1
        for _ in range(12):
            await told(router.producer("chat", prompt=PROMPT))
        assert router.health()[0].interval == 0.0

    run(main())


async def test_other_dialects_and_aliases() -> None:
    """A name may stand for another, and its routes may speak different dialects; options reach them all."""
    async with LoopbackEngine(fault=Fault(status=500)) as first, LoopbackEngine() as second:
        router = Router(
            {
                "chat": [
                    Route(AnthropicProducer, "claude", base_url=first.url, key=KEY),
                    Route(OllamaProducer, "llama3", base_url=second.url),
                ],
                "default": "chat",
            },
            retries=0,
        )
        messages = [{"role": "user", "content": PROMPT}]
        text, receipt = await told(router.producer("default", messages=messages, max_tokens=5))
        assert text
        assert [each.provider for each in receipt.attempts] == ["anthropic", "ollama"]
        assert [each.max_tokens for each in (*first.requests, *second.requests)] == [5, 5]
    assert (receipt.provider, receipt.model) == ("ollama", "llama3")


async def test_usage_and_names_are_those_of_all_attempts() -> None:
    """A producer that says little is booked with what the router knows of it."""
    calls = Provider(["a", ValueError("a secret")])
    router = Router({"chat": Route(calls.make, "m", provider="own")}, when_broken="fail")
    _, receipt = await told(router.producer("chat", prompt=PROMPT))
    (attempt,) = receipt.attempts
    assert (attempt.provider, attempt.model, attempt.chunks) == ("own", "m", 1)
    assert (str(attempt.outcome), attempt.error) == ("failed", "ValueError")
    assert attempt.started_ns is not None
    assert attempt.closed_ns is not None
    assert "secret" not in receipt.detail


@pytest.mark.parametrize(
    ("routes", "options", "said"),
    [
        ({"chat": "nothing"}, {}, "leads nowhere"),
        ({"a": "b", "b": "a"}, {}, "leads nowhere"),
        ({"chat": []}, {}, "something else than routes"),
        ({"chat": ["chat"]}, {}, "something else than routes"),
        ({}, {"hedge": 1}, "no keyword hedge"),
        ({}, {"when_broken": "panic"}, "there are 'resume'"),
        ({}, {"when_broken": ("partial", "resume")}, "in this order"),
        ({}, {"when_broken": ("partial", "fail")}, "in this order"),
        ({}, {"when_broken": "cached"}, "is given both"),
        ({}, {"cached": print}, "is given both"),
        ({}, {"hedge_after": -1}, "hedge_after=-1"),
        ({}, {"overlap": -1}, "overlap=-1"),
        ({}, {"resumes": -1}, "resumes=-1"),
        ({}, {"calls": 0}, "calls=0"),
        ({}, {"patience": float("nan")}, "patience=nan"),
    ],
)
def test_a_router_that_cannot_be(routes: Any, options: Any, said: str) -> None:
    """What is wrong with a router is said when it is made."""
    with pytest.raises(UsageError, match=said):
        Router(routes, **options)


def test_a_call_that_cannot_be() -> None:
    """What is wrong with a call is said when its producer is made, also by routes not needed yet."""
    router = Router(
        {
            "chat": [Route(OllamaProducer, "m"), Route(OllamaProducer, "m", base_url="nowhere")],
            "none": Route(lambda model, **_: object(), "m"),
        }
    )
    with pytest.raises(UsageError, match="knows 'chat'"):
        router.producer("other", prompt=PROMPT)
    with pytest.raises(UsageError, match="one of them"):
        router.producer("chat")
    with pytest.raises(UsageError, match="base_url must begin"):
        router.producer("chat", prompt=PROMPT)
    with pytest.raises(UsageError, match="returned a object"):
        router.producer("none", prompt=PROMPT)
    with pytest.raises(UsageError, match="its factory is"):
        Route("openai", "m")  # type: ignore[arg-type]


def test_what_is_shown() -> None:
    """Reprs name routes and models; keys and prompts are in none of them, nor in anything they hold."""
    kept = route("http://127.0.0.1:1", "a")
    router = Router({"chat": kept})
    producer = router.producer("chat", prompt=PROMPT)
    assert repr(kept) == "<Route a>"
    assert repr(producer) == "<RoutedProducer model='chat' routes=a>"
    assert (producer.provider, producer.model) == ("a", "m")
    assert producer.route == OpenAIProducer("m", prompt="", base_url="http://127.0.0.1/v1").route
    assert producer.termination is not None
    shown = [
        repr(each) for each in (kept, router, producer, vars(kept), vars(producer), vars(router))
    ]
    assert [text for text in shown if KEY in text or PROMPT in text] == []
