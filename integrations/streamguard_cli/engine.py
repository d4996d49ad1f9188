"""`streamguard engine`: runs the loopback engine until it is interrupted."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import suppress
from dataclasses import fields
from typing import Annotated, Final

import typer
from rich.text import Text

from streamguard_cli.console import console, fail, warn
from streamguard_testing import (
    Ending,
    EngineOptions,
    EngineRequest,
    EngineSettings,
    Fault,
    LoopbackEngine,
)
from streamguard_testing.settings import is_loopback

_DEFAULT_RATE: Final = 20.0


Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")]
Host = Annotated[
    str,
    typer.Option(help="Address to listen on. Other machines get in only if you name one here."),
]
Rate = Annotated[
    float | None,
    typer.Option(help=f"Pace of the model; {_DEFAULT_RATE:g} unless --interval is given."),
]
Interval = Annotated[
    float | None,
    typer.Option(help="Pace as seconds from token to token; 0 is as fast as possible."),
]
Burst = Annotated[int, typer.Option(help="Tokens generated and written at once.")]
Delay = Annotated[float, typer.Option(help='Seconds of "thinking" before the first token.')]
Slots = Annotated[int | None, typer.Option(help="Requests generated at a time; the others wait.")]
Seed = Annotated[int, typer.Option(help="Seed of the generated text.")]
Length = Annotated[int | None, typer.Option(help="Length at which the model stops by itself.")]
FaultJson = Annotated[
    str | None,
    typer.Option(help='What goes wrong with every request, as JSON: {"cut_after": 3}.'),
]


def engine(
    *,
    port: Port = 0,
    host: Host = "127.0.0.1",
    tokens_per_second: Rate = None,
    interval: Interval = None,
    burst: Burst = 1,
    first_token_delay: Delay = 0.0,
    slots: Slots = None,
    seed: Seed = 0,
    answer_tokens: Length = None,
    fault: FaultJson = None,
) -> None:
    """Run a model server that generates text, counts it, and misbehaves on request.

    It speaks the wire formats of OpenAI (/v1/chat/completions, /v1/completions,
    /v1/responses), Anthropic (/v1/messages), Gemini
    (/v1beta/models/{model}:streamGenerateContent and :generateContent) and Ollama
    (/api/chat, /api/generate), and tells under /_engine/requests what it
    generated and when it noticed that a reader left. /api/v1/generation?id= tells
    afterwards what a generation used, as OpenRouter does.
    There is no real model behind it, and it needs no keys. Ctrl-C stops it.
    """
    if tokens_per_second is None and interval is None:
        tokens_per_second = _DEFAULT_RATE
    options: EngineOptions = {
        "host": host,
        "port": port,
        "allow_remote": True,  # by naming the host; `_run` warns
        "tokens_per_second": tokens_per_second,
        "interval": interval,
        "burst": burst,
        "first_token_delay": first_token_delay,
        "slots": slots,
        "seed": seed,
        "answer_tokens": answer_tokens,
        "on_ended": _print_ended,
    }
    _run(options, fault)


def _run(options: EngineOptions, fault: str | None) -> None:
    """Run an engine until a signal comes; what is wrong with the options is said in their words."""
    try:
        if fault is not None:
            options["fault"] = Fault.from_json(fault)
        server = LoopbackEngine(**options)
    except ValueError as error:
        raise typer.BadParameter(_as_flags(str(error))) from None
    host = server.settings.host
    if not is_loopback(host):
        warn(f"{host} lets other machines in, and this engine has no access control")
    try:
        asyncio.run(_serve(server))
    except OSError as error:
        raise fail(error.strerror or str(error)) from None
    except KeyboardInterrupt:  # where the loop takes no signal handlers (Windows)
        pass


async def _serve(server: LoopbackEngine) -> None:
    """Serve until a signal comes."""
    leave = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, leave.set)
    async with server:
        _print_banner(server)
        await leave.wait()
        made = sum(request.generated for request in server.requests)
        console().print(f"Stopped after {len(server.requests)} requests and {made} tokens.")


def _print_banner(server: LoopbackEngine) -> None:
    prompt = [{"role": "user", "content": "Tell me about the river"}]
    ollama = json.dumps({"model": "loopback", "messages": prompt})
    openai = json.dumps({"model": "loopback", "stream": True, "messages": prompt})
    out = console()
    out.print(Text.assemble("The loopback engine listens on ", (server.url, "bold green")))
    out.print("\nTry it, and press Ctrl-C over there in the middle of the answer:")
    out.print(f"  curl -N {server.url}/api/chat -d '{ollama}'")
    out.print(f"  curl -N {server.openai_url}/chat/completions -d '{openai}'")
    out.print(f"\nWhat it counted: {server.url}/_engine/requests")
    out.print("Ctrl-C here stops the engine.\n")


def _print_ended(request: EngineRequest) -> None:
    text = f"{request.id} {request.dialect}: {request.generated} of {request.planned_tokens} tokens"
    if request.left_by is not None:
        text += (
            f", the reader left ({request.left_by}),"
            f" {request.generated_after_noticed} generated after that"
        )
    elif request.ending is not Ending.COMPLETED:
        text += f", {request.ending}"
    console().print(text)


def _as_flags(text: str) -> str:
    """Name options as they are typed, where the engine names its keywords."""
    for name in (field.name for field in fields(EngineSettings)):
        if "_" in name:
            text = text.replace(name, f"--{name.replace('_', '-')}")
    return text
