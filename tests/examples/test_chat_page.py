"""The page of `fastapi_chat` in a real browser: answers, Stop, a closed tab, a reload, failures, markup."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest

from streamguard_ledger import read_receipts
from streamguard_testing import Fault, NGramModel, RunningEngine, ServerProcess, run_engine

from .conftest import BOUND

MAIN = Path(__file__).parents[2] / "example_projects" / "fastapi_chat" / "main.py"
MARKUP = '<img src=x onerror="document.title=1"> <b>bold</b> <script>document.title=2</script> '
NEVER = 1000
"""An answer of so many tokens does not come to its end while a test watches."""


class Chat:
    """The page, as its reader sees it."""

    def __init__(self, page: Any, engine: RunningEngine, ledger: Path, url: str) -> None:
        self.page, self.engine, self.ledger, self.url = page, engine, ledger, url

    def open(self) -> None:
        """Load the page, and wait until it knows who answers."""
        self.page.goto(self.url)
        self.until(lambda: self.text("#engine"))

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until the page, or the ledger, shows something."""
        end = monotonic() + BOUND
        while not (found := condition()):
            assert monotonic() < end, "it did not come"
            # The browser's own events are handled meanwhile.
            self.page.wait_for_timeout(20)
        return found

    def all(self, selector: str) -> list[Any]:
        """Everything that a selector finds."""
        found: list[Any] = self.page.query_selector_all(selector)
        return found

    def text(self, selector: str) -> str:
        """What is to be read in the last thing that a selector finds."""
        script = "selector => [...document.querySelectorAll(selector)].at(-1)?.textContent ?? ''"
        return str(self.page.evaluate(script, selector))

    def ask(self, question: str = "a secret question") -> None:
        """Type a question and press Enter."""
        self.page.type("#prompt", question)
        self.page.press("#prompt", "Enter")

    def ask_and_read(self, length: int = 10) -> None:
        """Ask, and wait until some of the answer is there."""
        before = len(self.all(".turn.assistant"))
        self.ask()
        self.until(
            lambda: (
                len(self.all(".turn.assistant")) > before
                and len(self.text(".turn.assistant:last-child .said")) >= length
            )
        )

    def ended(self) -> str:
        """Wait for the receipt of the last answer; what the page says of it."""
        self.until(lambda: self.all(".turn.assistant:last-child .end .cause"))
        return self.text(".turn.assistant:last-child .end")

    def receipt(self, position: int = -1) -> dict[str, Any]:
        """One receipt in the ledger, by the order in which the streams were opened."""
        return sorted(read_receipts(self.ledger), key=lambda one: one["stream_id"])[position]

    def sealed(self) -> dict[str, Any]:
        """Wait for the newest receipt."""
        self.until(lambda: self.receipt()["sealed"])
        return self.receipt()


def _serve(engine: RunningEngine, ledger: Path, window: float = 60, port: int = 0) -> ServerProcess:
    command = [sys.executable, str(MAIN), "--port", "{port}", "--window", str(window)]
    command += ["--engine", engine.url, "--ledger", str(ledger)]
    return ServerProcess(command, port=port)


@contextlib.contextmanager
def chat_with(page: Any, ledger: Path, window: float = 60, **options: Any) -> Iterator[Chat]:
    """The example against an engine in our own hands, with its page open."""
    with (
        run_engine(**options) as engine,
        _serve(engine, ledger, window) as server,
    ):
        chat = Chat(page, engine, ledger, server.url)
        chat.open()
        yield chat
        # Whatever page is still open must not keep the server waiting.
        chat.page.context.pages[0].goto("about:blank")


def _let_go_at_once(engine: RunningEngine) -> None:
    """The engine's own record: its reader left, and it generated nothing after it had noticed."""
    engine.wait_idle()
    request = engine.requests[-1]
    assert request.left_by is not None
    assert not request.ran_to_end
    assert request.generated_after_noticed == 0
    assert request.generated < NEVER / 4


def test_two_answers_one_after_the_other(page: Any, tmp_path: Path) -> None:
    """Each answer comes whole, ends with its receipt, and stands in the list; nothing goes wrong in the page."""
    with chat_with(page, tmp_path, interval=0.001, answer_tokens=30) as chat:
        said = []
        for _ in range(2):
            chat.ask()
            said.append(chat.ended())
            chat.until(lambda: len(chat.all("#receipts .cause")) == len(said))
        assert len(chat.all(".turn.user")) == len(chat.all(".turn.assistant")) == 2
        for text in said:
            assert "COMPLETED The answer is complete." in text
            assert "30 tokens · 30 chunks produced, 30 delivered" in text
            assert "finish stop" in text
        # The second question was asked with the first answer in view.
        assert chat.engine.requests[1].prompt_tokens > chat.engine.requests[0].prompt_tokens + 30
        whole = chat.all(".turn.assistant:last-child summary")[0]
        assert not chat.all(".turn.assistant:last-child pre")[0].is_visible()
        whole.click()
        assert (
            chat.receipt()["stream_id"]
            in chat.all(".turn.assistant:last-child pre")[0].inner_text()
        )
        assert page.complaints == []


@pytest.mark.parametrize("way", ["button", "escape"])
def test_stop(page: Any, tmp_path: Path, way: str) -> None:
    """Stop is the reader's own decision: USER_CANCEL, the engine is let go, and the next question can be asked."""
    with chat_with(page, tmp_path, interval=0.02, answer_tokens=NEVER) as chat:
        chat.ask_and_read()
        assert chat.text("#button") == "Stop"
        if way == "button":
            chat.all("#button")[0].click()
        else:
            page.keyboard.press("Escape")
        said = chat.ended()
        _let_go_at_once(chat.engine)
        assert "USER_CANCEL You pressed Stop." in said
        assert "never generated · connection to the engine closed" in said
        assert (chat.receipt()["cause"], chat.receipt()["close"]) == ("USER_CANCEL", "confirmed")
        assert chat.text("#button") == "Send"
        chat.ask_and_read()


def test_stop_before_the_first_token(page: Any, tmp_path: Path) -> None:
    """An engine that still thinks is let go as well, and the receipt says that nothing was delivered."""
    with chat_with(page, tmp_path, first_token_delay=600) as chat:
        chat.ask()
        chat.until(lambda: chat.engine.requests)
        chat.all("#button")[0].click()
        said = chat.ended()
        chat.engine.wait_idle()
        assert chat.engine.requests[-1].generated == 0
        assert "USER_CANCEL" in said
        assert "0 chunks produced, 0 delivered" in said
        assert chat.text(".turn.assistant .said") == "no answer"


def test_a_reader_that_leaves(page: Any, tmp_path: Path) -> None:
    """A closed tab whose reader does not come back in time is a disconnect, and the list says so afterwards."""
    with chat_with(page, tmp_path, window=0.2, interval=0.02, answer_tokens=NEVER) as chat:
        chat.ask_and_read()
        chat.page = page.context.new_page()
        page.close()
        _let_go_at_once(chat.engine)
        receipt = chat.sealed()
        assert (receipt["cause"], receipt["close"]) == ("CLIENT_DISCONNECT", "confirmed")
        chat.open()
        chat.until(lambda: "CLIENT_DISCONNECT The reader left." in chat.text("#receipts li"))


def test_a_reload_continues_the_answer(page: Any, tmp_path: Path) -> None:
    """After a reload the same answer goes on where it was: no gap, no repeat, one call, one receipt."""
    with chat_with(page, tmp_path, interval=0.02, answer_tokens=150) as chat:
        chat.ask_and_read()
        page.reload()
        chat.until(lambda: "COMPLETED" in chat.text(".turn.assistant:last-child .end"))
        _one_whole_answer(chat, 150)


def test_offline_and_back(page: Any, tmp_path: Path) -> None:
    """A network that goes away and comes back costs nothing: the page says so, and the answer goes on."""
    with chat_with(page, tmp_path, interval=0.02, answer_tokens=150) as chat:
        chat.ask_and_read()
        page.context.set_offline(True)
        chat.until(lambda: "you are offline" in chat.text(".turn.assistant .live"))
        page.context.set_offline(False)
        chat.until(lambda: "COMPLETED" in chat.text(".turn.assistant:last-child .end"))
        _one_whole_answer(chat, 150)


def _one_whole_answer(chat: Chat, tokens: int) -> None:
    """What the page shows is what the engine says to this question, once; it was asked once."""
    (request,) = chat.engine.requests
    assert request.ran_to_end
    messages = [{"role": "user", "content": "a secret question"}]
    question = {"model": "loopback", "messages": messages, "stream": False}
    answer = httpx.post(f"{chat.engine.url}/api/chat", json=question, timeout=BOUND).json()
    assert chat.text(".turn.assistant:last-child .said") == answer["message"]["content"]
    (receipt,) = read_receipts(chat.ledger)
    assert (receipt["cause"], receipt["consumed"]) == ("COMPLETED", tokens)


@pytest.mark.parametrize(
    ("fault", "cause", "words"),
    [
        (Fault(status=404), "PRODUCER_ERROR", "The engine failed: ollama refused the call"),
        (Fault(error_after=3), "PRODUCER_ERROR", "The engine failed: ollama reported an error"),
        (Fault(cut_after=3), "TRUNCATED", "The engine broke off in the middle of the answer:"),
    ],
)
def test_an_engine_that_fails(
    page: Any, tmp_path: Path, fault: Fault, cause: str, words: str
) -> None:
    """What went wrong is said in words, and a part of an answer is not shown as a whole one."""
    with chat_with(page, tmp_path, interval=0.001, fault=fault) as chat:
        chat.ask()
        said = chat.ended()
        assert f"{cause} {words}" in said
        assert "COMPLETED" not in said
        assert not chat.all(".busy")


def test_markup_is_text(page: Any, tmp_path: Path) -> None:
    """Markup in a question or an answer is shown as it was written, and never becomes part of the page."""
    model = NGramModel(MARKUP * 3)
    with chat_with(page, tmp_path, interval=0.001, answer_tokens=60, model=model) as chat:
        chat.ask(MARKUP)
        chat.ended()
        assert "onerror" in chat.text(".turn.assistant .said")
        assert chat.text(".turn.user .said") == MARKUP.strip()
        assert chat.all("#talk img, #talk b, #talk script") == []
        assert page.title() == "StreamGuard chat"


def test_a_server_that_is_gone(page: Any, tmp_path: Path) -> None:
    """A question to a server that is not there is answered by what to look at."""
    with run_engine() as engine:
        with _serve(engine, tmp_path) as server:
            chat = Chat(page, engine, tmp_path, server.url)
            chat.open()
        chat.ask()
        chat.until(lambda: chat.text(".turn.assistant .end"))
        assert chat.text(".end") == "The server cannot be reached. Is it running?"
        assert chat.text("#button") == "Send"


def test_a_server_that_is_stopped(page: Any, tmp_path: Path) -> None:
    """Ctrl-C in the middle of an answer: the reader is told, the engine is let go, the receipt says SHUTDOWN."""
    with run_engine(interval=0.02, answer_tokens=NEVER) as engine:
        with _serve(engine, tmp_path) as server:
            chat = Chat(page, engine, tmp_path, server.url)
            chat.open()
            chat.ask_and_read()
            server.send_signal(signal.SIGINT)
            assert server.wait() == 0
            assert "Traceback" not in server.output()
        # What `eos` said, or what the receipt says: a server that stops may still answer the page's question for it.
        words = "The server is shutting down.", "SHUTDOWN The server was stopped."
        chat.until(lambda: any(said in chat.text(".turn.assistant .end") for said in words))
        _let_go_at_once(engine)
        assert (chat.receipt()["cause"], chat.receipt()["sealed"]) == ("SHUTDOWN", True)


def test_a_server_that_is_killed(page: Any, tmp_path: Path) -> None:
    """SIGKILL in the middle of an answer: the page tries to come back, and the next start notes CRASHED."""
    with run_engine(interval=0.02, answer_tokens=NEVER) as engine:
        with _serve(engine, tmp_path) as server:
            chat = Chat(page, engine, tmp_path, server.url)
            chat.open()
            chat.ask_and_read()
            server.send_signal(signal.SIGKILL)
            chat.until(lambda: "connection lost" in chat.text(".turn.assistant .live"))
        _let_go_at_once(engine)
        assert not chat.receipt()["sealed"]
        with _serve(engine, tmp_path, port=server.port) as server:
            # The page has kept trying; the server that is there now does not know the answer.
            chat.until(lambda: "cannot be continued" in chat.text(".turn.assistant .end"))
            chat.open()
            chat.until(lambda: "CRASHED The server was killed" in chat.text("#receipts li"))
            assert chat.receipt()["cause"] == "CRASHED"
