"""The engine's own counts are exact, and without an application it stops when readers leave."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("httpx", reason="the real engine is missing: run `tox -e engine`")
pytest.importorskip("gguf", reason="the real engine is missing: run `tox -e engine`")
pytest.importorskip("numpy", reason="the real engine is missing: run `tox -e engine`")
pytest.importorskip("psutil", reason="the real engine is missing: run `tox -e engine`")

import httpx

from .llama_server import LlamaServer
from .make_model import Shape, write_model
from .measure import CHAT
from .readers import TOKEN_MARK, Leave, Reader, chat_request

pytestmark = pytest.mark.engine

# llama.cpp sees a closed socket when it next writes to it: about two tokens late.
FLOOR = 4
ASKED = 400
ATTEMPTS = 3


@pytest.fixture
def client(engine: LlamaServer) -> Iterator[httpx.Client]:
    """A plain HTTP client of the idle engine."""
    engine.wait_idle()
    with httpx.Client(base_url=engine.url, timeout=60.0, trust_env=False) as client:
        yield client


def test_the_same_seed_gives_the_same_model(tmp_path: Path) -> None:
    """Two models of one seed are equal to the byte, of two seeds not."""
    shapes = {"a": 1, "b": 1, "c": 2}
    for name, seed in shapes.items():
        write_model(tmp_path / name, Shape(layers=1, width=64, inner=64, seed=seed))
    contents = [(tmp_path / name).read_bytes() for name in shapes]
    assert contents[0] == contents[1] != contents[2]


def test_dimensions_that_cannot_work_are_refused() -> None:
    """A model whose heads do not divide its width is refused with the numbers and the rule."""
    with pytest.raises(ValueError, match=r"width 100 with 8 heads.*multiple of heads"):
        Shape(width=100)
    with pytest.raises(ValueError, match="at least 1"):
        Shape(layers=0)


def test_a_reader_that_stays_gets_every_token(engine: LlamaServer, client: httpx.Client) -> None:
    """400 tokens asked for are 400 generated, 400 chunks on the wire, and a finish `length`."""
    before = engine.generated()
    with client.stream("POST", CHAT, json=chat_request(400)) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert sum(TOKEN_MARK.decode() in line for line in lines) == 400
    assert '"finish_reason":"length"' in lines[-2]
    assert lines[-1] == "data: [DONE]"
    assert engine.generated() - before == 400


@pytest.mark.parametrize("leave", Leave)
@pytest.mark.parametrize("tokens", [1, 8, 40])
def test_a_direct_reader_that_leaves_stops_the_engine(
    engine: LlamaServer, leave: Leave, tokens: int
) -> None:
    """With nothing in between, the engine stops within a few tokens of a close or a reset."""
    burns: list[int] = []
    # On a busy machine this test may be held up between its look at the count and its leaving:
    # that counts as burnt, too. So the count is only ever too high, and the lowest one is judged.
    while len(burns) < ATTEMPTS and min(burns, default=ASKED) > FLOOR:
        burns.append(_burn(engine, leave, tokens))
    assert min(burns) <= FLOOR, burns


def _burn(engine: LlamaServer, leave: Leave, tokens: int) -> int:
    """Have one reader leave; what the engine generated after the last look before that."""
    engine.wait_idle()
    before = engine.generated()
    with Reader(engine.url + CHAT, body=chat_request(ASKED)) as reader:
        reader.read(tokens)
        at_leaving = engine.generated()
        reader.leave(leave)
    engine.wait_idle()
    total = engine.generated()
    assert tokens <= at_leaving - before
    assert total - before < ASKED, "it was generated for to the end"
    return total - at_leaving


def test_the_total_is_exact_while_requests_come_and_go(engine: LlamaServer) -> None:
    """The running total never falls and never exceeds the sum that ten requests end with."""
    engine.wait_idle()
    before = engine.generated()
    asked = range(10, 60, 5)
    seen = [0]

    def read_all(max_tokens: int) -> int:
        with Reader(engine.url + CHAT, body=chat_request(max_tokens)) as reader:
            return reader.read_to_end()

    with ThreadPoolExecutor(len(asked)) as pool:
        answers = [pool.submit(read_all, max_tokens) for max_tokens in asked]
        while not all(answer.done() for answer in answers):
            seen.append(engine.generated() - before)
    assert [answer.result() for answer in answers] == list(asked)
    assert seen == sorted(seen)
    assert max(seen) <= sum(asked) == engine.generated() - before
    # It moved while the requests ran: the count is live, not only written at the end.
    assert len(set(seen)) > len(asked)
