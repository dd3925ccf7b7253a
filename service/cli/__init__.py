"""The `smolserve` command."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from service import __version__
from service.errors import SmolserveError

_COMMANDS = ("serve", "top", "models", "gguf")
"""Each is a module here, with an `app` that has the command."""


def main() -> None:
    """Errors that we know are one line on stderr and exit code 1, never a traceback."""
    try:
        build_app(sys.argv[1:])()
    except SmolserveError as error:
        print(f"smolserve: {error}", file=sys.stderr)  # noqa: T201 - the command's own voice
        sys.exit(1)


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """Imports the command that `arguments` name, or all: serving needs much that others do not."""
    app = typer.Typer(
        name="smolserve",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback(help="Serve a small language model behind OpenAI's API.")(_root)
    named = [name for name in _COMMANDS if name in arguments[:1]]
    for name in named or _COMMANDS:
        app.add_typer(import_module(f"service.cli.{name}").app)
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
