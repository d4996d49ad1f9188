"""What the pipeline is told by its command line; what makes no sense is refused before anything is started."""

from __future__ import annotations

import argparse
from urllib.parse import urlsplit

QUESTION = "Tell me about the river."


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; ends the program with 2 where it makes no sense."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if asked.simulate_failures and asked.base_url is not None:
        parser.error(
            "--simulate-failures tells the loopback engines to fail; the engine at --base-url cannot"
            " be told to. Leave one of them out"
        )
    if asked.block and not asked.enable_guardrails:
        parser.error("--block is a rule of the guardrails; give --enable-guardrails with it")
    return asked


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="A streaming LangChain pipeline whose streams are governed, with its metrics and receipts.",
        epilog="The answer goes to stdout, everything else to stderr. Ctrl-C ends the stream, with a receipt.",
    )
    parser.add_argument("question", nargs="?", default=QUESTION, help=f"by default: {QUESTION}")
    parser.add_argument(
        "--base-url",
        type=_url,
        metavar="URL",
        help="Ollama, or an OpenAI-compatible .../v1 (key from OPENAI_API_KEY); by default two loopback engines",
    )
    parser.add_argument("--model", type=_name, metavar="M", help="the engine's first by default")
    parser.add_argument(
        "--temperature", type=_temperature, metavar="T", help="from 0 to 2; the engine's by default"
    )
    parser.add_argument(
        "--enable-guardrails",
        action="store_true",
        help="refuse e-mail addresses, card numbers and secret keys, in question and answer",
    )
    parser.add_argument(
        "--block",
        action="append",
        type=_name,
        default=[],
        metavar="PHRASE",
        help="a phrase that the guardrails refuse as well; may be given again",
    )
    parser.add_argument(
        "--simulate-failures",
        action="store_true",
        help="seven streams in which the loopback engines fail in different ways",
    )
    parser.add_argument(
        "--monitor-performance", action="store_true", help="show the metrics while the answer comes"
    )
    return parser


def _url(text: str) -> str:
    try:
        address = urlsplit(text)
        known = address.scheme in {"http", "https"} and address.hostname and address.port != 0
    except ValueError:
        known = False
    if not known:
        raise argparse.ArgumentTypeError(f"{text} is no address; give http://HOST:PORT")
    return text


def _name(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError("it is empty, or cannot be printed")
    return text.strip()


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 2:
        raise argparse.ArgumentTypeError(f"{text} is no number from 0 to 2")
    return value
