"""The application: puts the commands together, of which each has a module of its own.

A further command is a module with one function, and one line at the end of this file.
"""

from __future__ import annotations

from typing import Annotated

from streamguard_cli.supported import INSTALL

try:
    import rich  # noqa: F401 - typer works without it, but our commands do not
    import typer
except ImportError as error:
    raise ImportError(f"the streamguard command needs typer and rich: {INSTALL}") from error

from streamguard_cli.engine import engine
from streamguard_cli.inspect import register as register_inspect
from streamguard_cli.receipts import register as register_receipts
from streamguard_cli.tables import refuse
from streamguard_cli.verify import register as register_verify

app = typer.Typer(
    name="streamguard",
    help="Governs the life of LLM token streams.",
    no_args_is_help=True,
    add_completion=False,
    # A traceback with local variables could show keys, prompts or answers.
    pretty_exceptions_show_locals=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from streamguard_core import __version__  # noqa: PLC0415 - only when it is asked for

        typer.echo(f"streamguard {__version__}")
        raise typer.Exit


@app.callback()
def streamguard(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Govern the life of LLM token streams."""


def main() -> None:
    """Run the `streamguard` command with the arguments of this process."""
    try:
        app()
    except OSError as error:  # commands answer for what they open: this is where they print
        refused = refuse(f"cannot write the output: {error.strerror or error}")
        raise SystemExit(refused.exit_code) from None


app.command()(engine)
register_receipts(app)
register_verify(app)
register_inspect(app)
