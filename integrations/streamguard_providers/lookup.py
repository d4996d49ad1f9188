"""Asks a provider about an earlier call by its id: what it has cost, or to end it in the background."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from streamguard_core import Attempt, Receipt, Usage, UsageError
from streamguard_providers._httpx import family_of
from streamguard_providers.calls import REPORTED
from streamguard_providers.dialects import lenient, mapping_in, number_in
from streamguard_providers.errors import provider_error
from streamguard_providers.keys import checked_headers, checked_url, key_header
from streamguard_providers.openai_responses import responses_usage
from streamguard_providers.pools import shared_pool

#: What an id may consist of: it goes into a URL.
_ID: Final = re.compile(r"[A-Za-z0-9_\-]{1,200}")
_MAX_BODY: Final = 16 * 1024 * 1024
_OK: Final = 200
_NOT_FOUND: Final = 404
_LONGEST_PAUSE: Final = 5.0
_ENDED: Final = frozenset({"completed", "incomplete", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Directory:
    """Where a provider answers for earlier calls, and how its answer is read.

    Args:
        provider: whose it is.
        base_url: its API.
        path: of one call; `{id}` stands for the id.
        variable: the environment variable with the key.
        read: the usage in an answer; raises `_NotYetError` while the provider does not know.
        late: whether a call that is not found may only not be written down yet.
    """

    provider: str
    base_url: str
    path: str
    variable: str
    read: Callable[[Mapping[str, Any]], Usage | None]
    late: bool = False


class _NotYetError(Exception):
    """The provider does not know yet."""


def response_usage(said: Mapping[str, Any]) -> Usage | None:
    """The usage of a response of OpenAI's; None where it says none, as some do that were cancelled.

    Raises:
        _NotYetError: while it is being generated.
    """
    if said.get("status") not in _ENDED:
        raise _NotYetError
    reported = mapping_in(said.get("usage"))
    return None if reported is None else responses_usage(reported)


def generation_usage(said: Mapping[str, Any]) -> Usage | None:
    """The usage of a generation of OpenRouter's: its native counts, which are the ones it bills.

    Raises:
        _NotYetError: while there is none.
    """
    reported = mapping_in(said.get("data"))
    if reported is None:
        raise _NotYetError
    native = {
        name: number_in(reported.get(f"native_tokens_{name}"))
        for name in ("prompt", "completion", "cached", "reasoning")
    }
    if native["prompt"] is None and native["completion"] is None:
        return None
    numbers = {name: value for name, value in reported.items() if number_in(value) is not None}
    return Usage.reported_by_provider(
        input=native["prompt"],
        output=native["completion"],
        cached_input=native["cached"],
        reasoning=native["reasoning"],
        # Its other fields name the caller's application and user.
        reported=numbers,
    )


RESPONSES: Final = Directory(
    "openai", "https://api.openai.com/v1", "/responses/{id}", "OPENAI_API_KEY", response_usage
)
GENERATIONS: Final = Directory(
    "openrouter",
    "https://openrouter.ai/api/v1",
    "/generation?id={id}",
    "OPENROUTER_API_KEY",
    generation_usage,
    late=True,
)
_DIRECTORIES: Final[Mapping[str, Directory]] = {"resp_": RESPONSES, "gen-": GENERATIONS}
"""By what their ids begin with."""


async def look_up(
    call: Receipt | Attempt | str,
    *,
    api_key: str | None = None,
    base_url: str | None = None,
    headers: Mapping[str, str] | None = None,
    client: httpx.AsyncClient | None = None,
    seconds: float = 30.0,
) -> Usage | None:
    """Ask the provider what an earlier call has used, where it answers for that: by the call's id.

    OpenAI answers for responses (`resp_...`) that were stored, OpenRouter for generations
    (`gen-...`). A receipt is never edited: what comes back is for a correction beside it.

    Args:
        call: a receipt, whose calls are tried from the last; an attempt; or the id itself.
        api_key: the key; by default that of OPENAI_API_KEY or OPENROUTER_API_KEY.
        base_url: where the API is, unless at the provider itself.
        headers: further headers.
        client: an `httpx.AsyncClient` to ask with; by default the shared pool's.
        seconds: how long to ask again while the provider does not know yet.

    Returns:
        The usage, `provider_final`; None when the provider says none, or none in time.

    Raises:
        UsageError: when there is no id for which a provider answers.
        ProviderError: when the provider cannot be reached, or refuses.
    """
    name, directory = _found(call)
    asking = _Asking(directory, base_url, api_key, headers, client)
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + seconds, 0.25
    while True:
        try:
            return await asking.ask("GET", directory.path.format(id=name))
        except _NotYetError:
            if loop.time() + pause > until:
                return None
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def cancel_response(
    response_id: str,
    *,
    api_key: str | None = None,
    base_url: str | None = None,
    headers: Mapping[str, str] | None = None,
    client: httpx.AsyncClient | None = None,
) -> Usage | None:
    """Cancel a response that OpenAI generates in the background: closing its stream does not.

    May be called twice, and for one that has ended.

    Args:
        response_id: the response's id (`resp_...`).
        api_key: the key; by default that of OPENAI_API_KEY.
        base_url: where the API is, unless at OpenAI itself.
        headers: further headers.
        client: an `httpx.AsyncClient` to ask with; by default the shared pool's.

    Returns:
        The usage, where the answer has one; `look_up` may find it later.

    Raises:
        UsageError: when the id is none.
        ProviderError: when OpenAI cannot be reached, or refuses (it does for responses in the
            foreground).
    """
    name = _checked(response_id)
    asking = _Asking(RESPONSES, base_url, api_key, headers, client)
    try:
        return await asking.ask("POST", f"/responses/{name}/cancel")
    except _NotYetError:
        return None


def _found(call: Receipt | Attempt | str) -> tuple[str, Directory]:
    for name in _names(call):
        for beginning, directory in _DIRECTORIES.items():
            if name.startswith(beginning):
                return _checked(name), directory
    raise UsageError(
        "look_up() was called without an id that a provider answers for; give the response's id"
        f" ({'..., '.join(_DIRECTORIES)}...) itself"
    )


def _names(call: Receipt | Attempt | str) -> Iterator[str]:
    if isinstance(call, str):
        yield call
        return
    attempts = reversed(call.attempts) if isinstance(call, Receipt) else ()
    for one in (*attempts, call):
        if one.request_id is not None:
            yield one.request_id


def _checked(name: str) -> str:
    if not _ID.fullmatch(name):
        raise UsageError("an id was given that is none: letters, digits, - and _ are allowed")
    return name


class _Asking:
    """One question to a provider: outside of any scope, whose cutoff may be the reason to ask."""

    def __init__(
        self,
        directory: Directory,
        base_url: str | None,
        api_key: str | None,
        headers: Mapping[str, str] | None,
        client: httpx.AsyncClient | None,
    ) -> None:
        self._directory = directory
        self._base_url = checked_url(base_url or directory.base_url)
        key = api_key if api_key is not None else os.environ.get(directory.variable)
        secrets = checked_headers(headers) | key_header(key)
        self._headers = {name: secret.reveal() for name, secret in secrets.items()}
        self._client: Any = client

    async def ask(self, method: str, path: str) -> Usage | None:
        """Ask once.

        Raises:
            _NotYetError: while the provider does not know.
            ProviderError: when it cannot be reached, or refuses.
        """
        url = self._base_url + path
        if self._client is not None:
            return await self._ask(self._client, method, url)
        lease = await shared_pool().lease(url)
        try:
            return await self._ask(lease.client, method, url)
        finally:
            lease.release()

    async def _ask(self, client: Any, method: str, url: str) -> Usage | None:
        directory = self._directory
        request = client.build_request(
            method, url, headers=self._headers, extensions={REPORTED: True, "timeout": _TIMEOUT}
        )
        try:
            status, body = await _answer(client, request)
        except family_of(request).module.HTTPError as error:
            what = f"could not be reached: {type(error).__name__}"
            raise provider_error(directory.provider, what=what, retryable=True) from error
        if status == _NOT_FOUND and directory.late:
            raise _NotYetError
        said = lenient(body)
        if status != _OK or said is None:
            what = "refused to answer for an earlier call"
            raise provider_error(directory.provider, said, what=what, status=status)
        return directory.read(said)


_TIMEOUT: Final = {"connect": 10.0, "read": 10.0, "write": 10.0, "pool": 10.0}


async def _answer(client: Any, request: Any) -> tuple[int, bytes]:
    """Status and body; of a body that is too large, what is not too much."""
    response = await client.send(request, stream=True)
    body = bytearray()
    try:
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > _MAX_BODY:
                break
    finally:
        await response.aclose()
    return response.status_code, bytes(body)
