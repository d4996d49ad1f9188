"""A chat's page in a real browser, as its reader sees it, with the engine in the test's hands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from streamguard_ledger import read_receipts
from streamguard_testing import RunningEngine, run_engine

from .conftest import BOUND
from .sites import Site, receipts_in

ENDLESS: dict[str, Any] = {"lead": 40, "interval": 0.5}
"""An engine whose answer begins at once, and does not come to its end while a test watches."""


class Chat:
    """The page, as its reader sees it."""

    def __init__(self, page: Any, engine: RunningEngine, folder: Path, url: str) -> None:
        self.page, self.engine, self.url = page, engine, url
        self.ledger = receipts_in(folder)

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

    def sealed(self, position: int = -1) -> dict[str, Any]:
        """Wait for a receipt, the newest by default."""
        self.until(lambda: self.receipt(position)["sealed"])
        return self.receipt(position)


@contextlib.contextmanager
def chat_with(
    site: Site, page: Any, folder: Path, window: float = 60, **options: Any
) -> Iterator[Chat]:
    """The example against an engine in our own hands, with its page open."""
    with (
        run_engine(**options) as engine,
        site.serve(folder, "--engine", engine.url, window=window) as server,
    ):
        chat = Chat(page, engine, folder, server.url)
        chat.open()
        yield chat
        # Whatever page is still open must not keep the server waiting.
        chat.page.context.pages[0].goto("about:blank")


def let_go_at_once(engine: RunningEngine) -> None:
    """The engine's own record: its reader left, and it generated nothing after it had noticed."""
    engine.wait_idle()
    request = engine.requests[-1]
    assert request.left_by is not None
    assert not request.ran_to_end
    assert request.generated_after_noticed == 0
