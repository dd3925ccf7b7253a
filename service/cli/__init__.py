"""The `smolserve` command."""

import sys
from typing import Annotated

import typer

from service import __version__
from service.cli import gguf, models
from service.cli.serve import serve
from service.errors import SmolserveError


def main() -> None:
    """Errors that we know are one line on stderr and exit code 1, never a traceback."""
    try:
        build_app()()
    except SmolserveError as error:
        print(f"smolserve: {error}", file=sys.stderr)  # noqa: T201 - the command's own voice
        sys.exit(1)


def build_app() -> typer.Typer:
    app = typer.Typer(
        name="smolserve",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback(help="Serve a small language model behind OpenAI's API.")(_root)
    app.command()(serve)
    app.add_typer(models.app, name="models")
    app.add_typer(gguf.app, name="gguf")
    return app


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer's signature
    if wanted:
        print(f"smolserve {__version__}")  # noqa: T201 - asked for
        raise typer.Exit


def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options of the command itself."""
