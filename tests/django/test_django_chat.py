"""The example `django_chat` runs with one command under ASGI and WSGI, and its admin shows true receipts."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamguard_testing import RunningEngine, ServerProcess

from ..examples.over_http import (  # noqa: TID252 - one chat for all frameworks
    BOUND,
    QUESTION,
    ChatOverHTTP,
    receipt_of,
)
from ..examples.sites import (  # noqa: TID252
    DJANGO_ASGI,
    DJANGO_WSGI,
    EXAMPLES,
    demo_login,
    receipts_in,
)

LIST = "/admin/streamguard/streamreceipt/"
WRONG: list[tuple[Any, str]] = [
    (b"{", "no JSON"),
    (b"[" * 100_000, "no JSON"),
    (b"\xff\xfe", "no JSON"),
    ([], "messages is no list"),
    ({"messages": []}, "messages is no list"),
    ({"messages": [{"role": "user", "content": ""}] * 101}, "messages is no list"),
    ({"messages": [{"role": "system", "content": "x"}]}, "role"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "role"),
    ({"messages": ["user"]}, "role"),
    ({"messages": [{"role": "user", "content": 3}]}, "content"),
    ({"messages": [{"role": "user", "content": "x" * 20_001}]}, "content"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "half of a character"),
]


class DjangoChat(ChatOverHTTP):
    """What Django has beside what every chat does: an admin, commands, questions that it checks itself."""

    async def test_the_admin_shows_receipts_and_changes_none(self, chat: ServerProcess) -> None:
        """The user that is printed at the start sees each receipt with its cause, and may do nothing else."""
        async with httpx.AsyncClient(base_url=chat.url, timeout=20) as http:
            answer = await http.post("/chat", json=QUESTION)
            stream_id = answer.headers["streamguard-stream-id"]
            await receipt_of(http, stream_id)
            assert (await http.get(LIST)).status_code == 302
            await log_in(http, chat)
            await listed(http, stream_id)
            one = await http.get(f"{LIST}{stream_id}/change/")
            refused = [
                (await http.get(path)).status_code
                for path in (f"{LIST}add/", f"{LIST}{stream_id}/delete/", "/admin/auth/user/")
            ]
            verified = await http.post(f"{LIST}verify/", data={"csrfmiddlewaretoken": token(http)})
            styled = await http.get("/static/streamguard_django/admin.css")
        assert "COMPLETED" in one.text
        assert "as in the ledger" in one.text
        assert 'name="_save"' not in one.text
        assert refused == [403, 403, 403]
        assert verified.status_code == 200
        assert styled.headers["content-type"].startswith("text/css")

    @pytest.mark.parametrize(("body", "words"), WRONG, ids=range(len(WRONG)))
    def test_a_question_that_is_none_is_refused(
        self, engine: RunningEngine, chat: ServerProcess, body: Any, words: str
    ) -> None:
        """Before anything is asked of the engine, with what is wrong."""
        before = len(engine.requests)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        refused = httpx.post(f"{chat.url}/chat", content=content, headers=headers)
        assert (refused.status_code, len(engine.requests)) == (400, before)
        assert words in refused.json()["detail"]

    def test_what_another_site_could_send_is_refused(self, chat: ServerProcess) -> None:
        """A form needs no leave of a browser; nor are there other methods, and files outside of the page."""
        form = httpx.post(f"{chat.url}/chat", data={"messages": "x"})
        plain = {"content-type": "text/plain"}
        text = httpx.post(f"{chat.url}/chat", content=json.dumps(QUESTION), headers=plain)
        assert [form.status_code, text.status_code] == [415, 415]
        assert httpx.get(f"{chat.url}/chat").status_code == 405
        assert httpx.get(f"{chat.url}/static/..%2f..%2fengine.py").status_code == 404
        assert httpx.head(f"{chat.url}/chat.js").status_code == 200

    async def test_the_commands_report_and_verify(self, chat: ServerProcess, folder: Path) -> None:
        """`manage.py streamguard_report` and `streamguard_verify`, while the chat runs."""
        async with httpx.AsyncClient(base_url=chat.url, timeout=20) as http:
            answer = await http.post("/chat", json=QUESTION)
            await log_in(http, chat)
            await listed(http, answer.headers["streamguard-stream-id"])
        assert "COMPLETED" in self.managed(folder, "streamguard_report", "--by", "cause")
        assert "every row says what the ledger says" in self.managed(folder, "streamguard_verify")
        assert "no issues" in self.managed(folder, "check")

    def test_a_database_that_cannot_be_made_is_said(self, tmp_path: Path) -> None:
        """With its place, and which option names it."""
        nowhere = str(tmp_path / "nowhere" / "chat.sqlite3")
        kept = ("--ledger", str(receipts_in(tmp_path)), "--database", nowhere)
        assert f"({nowhere}); check --database" in self.refused(*kept)

    def managed(self, folder: Path, *arguments: str) -> str:
        """What a command prints; it must end well."""
        kept = {
            "CHAT_LEDGER": str(receipts_in(folder)),
            "CHAT_DATABASE": str(folder / "chat.sqlite3"),
        }
        command = [sys.executable, str(EXAMPLES / "django_chat" / "manage.py"), *arguments]
        done = subprocess.run(
            command, env={**os.environ, **kept}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


class TestDjangoChatUnderASGI(DjangoChat):
    """Served by uvicorn."""

    site = DJANGO_ASGI


class TestDjangoChatUnderWSGI(DjangoChat):
    """Served by gunicorn's threads."""

    site = DJANGO_WSGI


async def log_in(http: httpx.AsyncClient, chat: ServerProcess) -> None:
    """Log in as the output of the chat says."""
    user, password = demo_login(chat)
    await http.get("/admin/login/")
    given = {"username": user, "password": password, "csrfmiddlewaretoken": token(http)}
    answer = await http.post("/admin/login/?next=/", data=given)
    assert answer.status_code == 302, "the login was refused"


async def listed(http: httpx.AsyncClient, stream_id: str) -> None:
    """Wait until the admin lists a receipt: it is copied there beside the stream."""
    async with asyncio.timeout(BOUND):
        while stream_id not in (await http.get(LIST)).text:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)


def token(http: httpx.AsyncClient) -> str:
    """What Django wants to see in a form."""
    return http.cookies["csrftoken"]
