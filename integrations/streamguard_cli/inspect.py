"""`streamguard inspect`: decodes a captured stream, and shows what it says and how it ended."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Annotated, BinaryIO, Final

import typer

from streamguard_cli.tables import refuse
from streamguard_core import UsageError

_INCOMPLETE: Final = 1


def inspect(
    path: Annotated[str, typer.Argument(metavar="FILE|-", help="The captured response.")],
    *,
    dialect: Annotated[
        str, typer.Option(help="The wire format, such as openai-chat; found out by default.")
    ] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object, with the whole text.")
    ] = False,
) -> None:
    """Decode a captured stream: what it says, its usage, how it ended.

    FILE is a response's body as it came, or what curl -i wrote; - reads the
    standard input. Exit codes: 0 the provider's own end is there, 1 it is not,
    2 there is nothing to decode.
    """
    try:
        # The other commands need neither this package nor what it needs.
        from streamguard_cli import inspection  # noqa: PLC0415
        from streamguard_cli.capture import read_capture  # noqa: PLC0415
        from streamguard_providers import open_stream  # noqa: PLC0415
    except ImportError as error:
        raise refuse(str(error)) from None
    try:
        with _opened(path) as file:
            capture = read_capture(file)
            stream = open_stream(capture.pieces, dialect, capture.content_type)
            for _ in stream.batches():  # what is to be shown is in the accumulator, bounded
                pass
    except OSError as error:
        raise refuse(f"cannot read {path}: {error.strerror or error}") from None
    except UsageError as error:
        raise refuse(f"cannot inspect {path}: {error}") from None
    end = stream.end
    assert end is not None
    if as_json:
        typer.echo(json.dumps(inspection.data(capture, stream, end), indent=2))
    else:
        inspection.show(capture, stream, end)
    raise typer.Exit(0 if end.complete else _INCOMPLETE)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(inspect)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    with open(path, "rb") as file:  # noqa: PTH123 - what typer gave, as it was typed
        yield file
