"""The chats' page in a real browser: answers, Stop, a closed tab, a reload, failures, markup; each way it is served."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamguard_ledger import read_receipts
from streamguard_testing import Fault, NGramModel, run_engine

from .chat_page import ENDLESS, Chat, chat_with, let_go_at_once
from .conftest import BOUND
from .sites import DJANGO_ASGI, DJANGO_WSGI, FASTAPI, SITES, Site, demo_login, kill

MARKUP = '<img src=x onerror="document.title=1"> <b>bold</b> <script>document.title=2</script> '
EVERYWHERE = pytest.mark.parametrize("site", SITES, ids=str)


@EVERYWHERE
def test_two_answers_one_after_the_other(site: Site, page: Any, tmp_path: Path) -> None:
    """Each answer comes whole, ends with its receipt, and stands in the list; nothing goes wrong in the page."""
    with chat_with(site, page, tmp_path, interval=0.001, answer_tokens=30) as chat:
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
@EVERYWHERE
def test_stop(site: Site, page: Any, tmp_path: Path, way: str) -> None:
    """Stop is the reader's own decision: USER_CANCEL, the engine is let go, and the next question can be asked."""
    with chat_with(site, page, tmp_path, **ENDLESS) as chat:
        chat.ask_and_read()
        assert chat.text("#button") == "Stop"
        if way == "button":
            chat.all("#button")[0].click()
        else:
            page.keyboard.press("Escape")
        said = chat.ended()
        let_go_at_once(chat.engine)
        assert "USER_CANCEL You pressed Stop." in said
        assert "never generated · connection to the engine closed" in said
        assert (chat.receipt()["cause"], chat.receipt()["close"]) == ("USER_CANCEL", "confirmed")
        assert chat.text("#button") == "Send"
        chat.ask_and_read()


@EVERYWHERE
def test_stop_before_the_first_token(site: Site, page: Any, tmp_path: Path) -> None:
    """An engine that still thinks is let go as well, and the receipt says that nothing was delivered."""
    with chat_with(site, page, tmp_path, first_token_delay=600) as chat:
        chat.ask()
        chat.until(lambda: chat.engine.requests)
        chat.until(lambda: "thinking" in chat.text(".turn.assistant .live"))
        chat.all("#button")[0].click()
        said = chat.ended()
        chat.engine.wait_idle()
        assert chat.engine.requests[-1].generated == 0
        assert "USER_CANCEL" in said
        assert "0 chunks produced, 0 delivered" in said
        assert chat.text(".turn.assistant .said") == "no answer"


def test_stop_before_the_server_has_answered(page: Any, tmp_path: Path) -> None:
    """A request that hangs is given up, and the page says that it knows no more."""
    with chat_with(FASTAPI, page, tmp_path) as chat:
        page.route("**/chat", lambda _: None)
        chat.ask()
        chat.until(lambda: "sending" in chat.text(".turn.assistant .live"))
        chat.all("#button")[0].click()
        chat.until(lambda: chat.text(".turn.assistant .end .error"))
        assert "Stopped before the server had answered." in chat.text(".turn.assistant .end")
        assert chat.text("#button") == "Send"
        assert chat.engine.requests == ()


@EVERYWHERE
def test_a_reader_that_leaves(site: Site, page: Any, tmp_path: Path) -> None:
    """A closed tab whose reader does not come back in time is a disconnect, and the list says so afterwards."""
    with chat_with(site, page, tmp_path, window=0.2, **ENDLESS) as chat:
        chat.ask_and_read()
        chat.page = page.context.new_page()
        page.close()
        let_go_at_once(chat.engine)
        receipt = chat.sealed()
        assert (receipt["cause"], receipt["close"]) == ("CLIENT_DISCONNECT", "confirmed")
        chat.open()
        chat.until(lambda: "CLIENT_DISCONNECT The reader left." in chat.text("#receipts li"))


@EVERYWHERE
def test_a_reload_continues_the_answer(site: Site, page: Any, tmp_path: Path) -> None:
    """After a reload the same answer goes on where it was: no gap, no repeat, one call, one receipt."""
    with chat_with(site, page, tmp_path, interval=0.02, answer_tokens=150) as chat:
        chat.ask_and_read()
        page.reload()
        chat.until(lambda: "COMPLETED" in chat.text(".turn.assistant:last-child .end"))
        _one_whole_answer(chat, 150)


def test_a_reload_before_the_server_has_answered(page: Any, tmp_path: Path) -> None:
    """There is nothing yet that could go on: the page says so, and the next question can be asked."""
    with chat_with(FASTAPI, page, tmp_path, interval=0.001, answer_tokens=30) as chat:
        page.route("**/chat", lambda _: None, times=1)
        chat.ask()
        chat.until(lambda: "sending" in chat.text(".turn.assistant .live"))
        page.reload()
        chat.until(lambda: chat.text(".turn.assistant .end .error"))
        assert "The answer ended when the page was reloaded." in chat.text(".turn.assistant .end")
        chat.ask()
        assert "COMPLETED" in chat.ended()


@EVERYWHERE
def test_offline_and_back(site: Site, page: Any, tmp_path: Path) -> None:
    """A network that goes away and comes back costs nothing: the page says so, and the answer goes on."""
    with chat_with(site, page, tmp_path, interval=0.02, answer_tokens=150) as chat:
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
    with chat_with(FASTAPI, page, tmp_path, interval=0.001, fault=fault) as chat:
        chat.ask()
        said = chat.ended()
        assert f"{cause} {words}" in said
        assert "COMPLETED" not in said
        assert not chat.all(".busy")


def test_markup_is_text(page: Any, tmp_path: Path) -> None:
    """Markup in a question or an answer is shown as it was written, and never becomes part of the page."""
    model = NGramModel(MARKUP * 3)
    with chat_with(FASTAPI, page, tmp_path, interval=0.001, answer_tokens=60, model=model) as chat:
        chat.ask(MARKUP)
        chat.ended()
        assert "onerror" in chat.text(".turn.assistant .said")
        assert chat.text(".turn.user .said") == MARKUP.strip()
        assert chat.all("#talk img, #talk b, #talk script") == []
        assert page.title() == "StreamGuard chat"


@EVERYWHERE
def test_a_server_that_is_gone(site: Site, page: Any, tmp_path: Path) -> None:
    """A question to a server that is not there is answered by what to look at."""
    with run_engine() as engine:
        with site.serve(tmp_path, "--engine", engine.url, window=60) as server:
            chat = Chat(page, engine, tmp_path, server.url)
            chat.open()
        chat.ask()
        chat.until(lambda: chat.text(".turn.assistant .end"))
        assert chat.text(".end") == "The server cannot be reached. Is it running?"
        assert chat.text("#button") == "Send"


@EVERYWHERE
def test_a_server_that_is_stopped(site: Site, page: Any, tmp_path: Path) -> None:
    """Ctrl-C in the middle of an answer: the reader is told, the engine is let go, the receipt says SHUTDOWN."""
    with run_engine(**ENDLESS) as engine:
        with site.serve(tmp_path, "--engine", engine.url, window=60) as server:
            chat = Chat(page, engine, tmp_path, server.url)
            chat.open()
            chat.ask_and_read()
            server.send_signal(signal.SIGINT)
            assert server.wait() == 0
            assert "Traceback" not in server.output()
        # What `eos` said, or what the receipt says: a server that stops may still answer the page's question for it.
        words = "The server is shutting down.", "SHUTDOWN The server was stopped."
        chat.until(lambda: any(said in chat.text(".turn.assistant .end") for said in words))
        let_go_at_once(engine)
        assert (chat.receipt()["cause"], chat.receipt()["sealed"]) == ("SHUTDOWN", True)


@EVERYWHERE
def test_a_server_that_is_killed(site: Site, page: Any, tmp_path: Path) -> None:
    """SIGKILL in the middle of an answer: the page tries to come back, and the next start notes CRASHED."""
    with run_engine(**ENDLESS) as engine:
        with site.serve(tmp_path, "--engine", engine.url, window=60) as server:
            chat = Chat(page, engine, tmp_path, server.url)
            chat.open()
            chat.ask_and_read()
            kill(server)
            chat.until(lambda: "connection lost" in chat.text(".turn.assistant .live"))
        let_go_at_once(engine)
        assert not chat.receipt()["sealed"]
        with site.serve(tmp_path, "--engine", engine.url, port=server.port) as server:
            # The page has kept trying; the server that is there now does not know the answer.
            chat.until(lambda: "cannot be continued" in chat.text(".turn.assistant .end"))
            chat.open()
            chat.until(lambda: "CRASHED The server was killed" in chat.text("#receipts li"))
            assert chat.receipt()["cause"] == "CRASHED"


@pytest.mark.parametrize("site", [DJANGO_ASGI, DJANGO_WSGI], ids=str)
def test_the_admin_shows_the_receipt(site: Site, page: Any, tmp_path: Path) -> None:
    """The page links to the admin, where the user that was printed finds the receipt with its cause."""
    with (
        run_engine(**ENDLESS) as engine,
        site.serve(tmp_path, "--engine", engine.url) as server,
    ):
        chat = Chat(page, engine, tmp_path, server.url)
        chat.open()
        chat.ask_and_read()
        chat.all("#button")[0].click()
        chat.ended()
        page.click("#admin")
        user, password = demo_login(server)
        page.fill("#id_username", user)
        page.fill("#id_password", password)
        page.press("#id_password", "Enter")
        stream_id = chat.receipt()["stream_id"]
        chat.until(lambda: page.reload() and chat.all("#result_list tbody tr"))
        assert "USER_CANCEL" in chat.text("#result_list tbody")
        page.click("#result_list tbody a")
        assert stream_id in page.inner_text("#content")
        assert "as in the ledger" in page.inner_text("#content")
        assert not chat.all("input[name=_save]")
        assert page.complaints == []
        page.goto("about:blank")
