"""The example `fastapi_chat` runs with one command, streams, stops, and shows true receipts."""

from __future__ import annotations

import httpx

from streamguard_testing import ServerProcess

from ..examples.over_http import ChatOverHTTP  # noqa: TID252 - one chat for all frameworks
from ..examples.sites import FASTAPI  # noqa: TID252


class TestFastAPIChat(ChatOverHTTP):
    """What every chat does, and what FastAPI says of a question that is none."""

    site = FASTAPI

    def test_a_question_that_is_none_is_refused(self, chat: ServerProcess) -> None:
        """Before anything is asked of the engine."""
        assert httpx.post(f"{chat.url}/chat", json={"messages": []}).status_code == 422
