"""What a request asks for, as far as its receipt needs it: who generates, how much, and which try it is."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

#: A larger request is not looked into: it must not wait for us.
_MAX_BODY: Final = 1 << 20
_GENERATES: Final = re.compile(
    r"(?:/(?:chat/)?completions|/responses|/messages|/api/(?:chat|generate)"
    r"|:(?:generateContent|streamGenerateContent|rawPredict|streamRawPredict)"
    r"|/invoke(?:-with-response-stream)?)$"
)
_FREE: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
_THREADS: Final = re.compile(r"/threads/[^/]+/messages$")
_MODEL: Final = re.compile(r"/(?:models?|deployments)/([^/:]+)")
#: SDKs made by Stainless (openai, anthropic and others) count their tries in this header, from 0.
_COUNT: Final = "x-stainless-retry-count"


class _Options(msgspec.Struct, gc=False):
    num_predict: int | None = None


class _Config(msgspec.Struct, gc=False, rename="camel"):
    max_output_tokens: int | None = None


class _Body(msgspec.Struct, gc=False):
    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    options: _Options | None = None
    generationConfig: _Config | None = None  # noqa: N815 - Gemini's own word


_DECODER: Final = msgspec.json.Decoder(_Body)


class Asked(msgspec.Struct, frozen=True):
    """What one request asks for.

    Args:
        path: of its URL.
        generates: whether the path is one at which models generate.
        spends: whether it may cost anything; what only asks for something that is there does not.
        model: which model is asked for.
        max_tokens: how much it may generate at most.
        tries: how many tries of the same call were made before; None where the SDK does not say.
        key: equal for two tries of the same call, within one process.
    """

    path: str
    generates: bool
    spends: bool = True
    model: str | None = None
    max_tokens: int | None = None
    tries: int | None = None
    key: int = 0


def asked(request: Any) -> Asked:
    """Look at a request of httpx's or httpx2's."""
    path = request.url.path
    if request.method != "POST" or not _GENERATES.search(path) or _THREADS.search(path):
        return Asked(path, generates=False, spends=request.method not in _FREE)
    content = _content(request)
    body = _body(content)
    tries = _tries(request.headers.get(_COUNT))
    named = _MODEL.search(path)
    return Asked(
        path,
        generates=True,
        model=body.model or (named[1] if named else None),
        max_tokens=_most(body),
        tries=tries,
        key=hash((str(request.url), content)) if tries is not None else 0,
    )


def _content(request: Any) -> bytes:
    try:
        content: bytes = request.content
    except (
        RuntimeError
    ):  # it is a stream that nobody has read: the library says so in its own class
        return b""
    return content


def _body(content: bytes) -> _Body:
    if len(content) <= _MAX_BODY:
        try:
            return _DECODER.decode(content)
        except (msgspec.DecodeError, RecursionError, ValueError):
            pass  # whatever it is, the provider judges it
    return _Body()


def _most(body: _Body) -> int | None:
    """The cap on generated tokens, by whichever name it has."""
    caps = (
        body.max_completion_tokens,
        body.max_output_tokens,
        body.max_tokens,
        None if body.options is None else body.options.num_predict,
        None if body.generationConfig is None else body.generationConfig.max_output_tokens,
    )
    return next((cap for cap in caps if cap is not None and cap >= 0), None)


def _tries(value: str | None) -> int | None:
    return int(value) if value is not None and value.isascii() and value.isdigit() else None
