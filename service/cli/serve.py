"""`smolserve serve`: an option for every setting, made from the settings themselves."""

import inspect
import socket
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
import uvloop
from rich.console import Console

from service.api.server import bind
from service.app import Started, fetch_model, run_service
from service.cli.greeting import greet
from service.models.preparation import prepare_model
from service.models.progress import show_progress
from service.settings import Setting, Settings, list_settings
from service.telemetry.logs import configure_logging

app = typer.Typer(add_completion=False)


def _with_an_option_for_each_setting(command: Callable[..., None]) -> Callable[..., None]:
    """Gives typer the signature that the settings imply; values stay text, Pydantic reads them."""
    parameters = [
        inspect.Parameter(
            setting.name.replace(".", "_"),
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[str | None, _describe(setting)],
        )
        for setting in list_settings()
    ]
    signature = inspect.Signature(parameters)
    command.__signature__ = signature
    return command


def _describe(setting: Setting) -> Any:  # noqa: ANN401 - typer's own return type
    default = f"; default {setting.default}" if setting.default else ""
    return typer.Option(
        setting.option,
        metavar=_metavar(setting),
        help=f"{setting.description}. [{setting.variable}{default}]",
        show_default=False,
    )


def _metavar(setting: Setting) -> str:
    annotation = setting.field.annotation
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    return setting.path[-1].upper()


@app.command()
@_with_an_option_for_each_setting
def serve(**options: str | None) -> None:
    """Serve a model until Ctrl-C or SIGTERM.

    An option wins over its environment variable, which stands in brackets with the default.
    """
    names = {setting.name.replace(".", "_"): setting.name for setting in list_settings()}
    given = {names[key]: value for key, value in options.items() if value is not None}
    settings = Settings.load(given)
    configure_logging(settings.log_level, settings.log_format, with_content=settings.log_prompts)
    listener = bind(settings.host, settings.port)
    with listener:
        _serve(settings, listener)


def _serve(settings: Settings, listener: socket.socket) -> None:
    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    with show_progress(settings.model, console) as report:
        found = fetch_model(settings, report, say)
    with show_progress("remap", console) as report:
        prepared = prepare_model(found, settings.models_dir, report=report, say=say)
    file = prepared.file
    say(prepared.checked)
    say(f"Loading {file.path} …")
    bound = settings.model_copy(update={"port": listener.getsockname()[1]})

    def greet_user(started: Started) -> None:
        typer.echo(greet(bound, started))

    uvloop.run(run_service(settings, file, listener, greet_user))
