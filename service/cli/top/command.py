"""The command's options, and its loop."""

import time
from typing import Annotated

import httpx
import msgspec
import typer
from rich.console import Console
from rich.live import Live

from service.cli.greeting import base_url
from service.cli.top.layout import draw
from service.cli.top.watcher import Look, Watcher
from service.errors import MetricsUnavailable, SettingsError
from service.settings import Settings

app = typer.Typer(add_completion=False)

_TIMEOUT_SECONDS = 5.0
"""A service answers from memory; one that takes longer is not well."""


@app.command()
def top(
    url: Annotated[
        str | None,
        typer.Argument(
            help="The service's address; this machine's by default.", show_default=False
        ),
    ] = None,
    *,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look twice, an interval apart, print that and end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: print JSON.")] = False,
    api_key: Annotated[
        str | None,
        typer.Option(help="By default the first of SMOLSERVE_API_KEYS.", show_default=False),
    ] = None,
) -> None:
    """Show what a running service does, until Ctrl-C; from its /metrics alone.

    Where the output is no terminal, it is printed once.
    """
    if as_json and not once:
        raise SettingsError("--json prints one look and no live view; add --once.")
    settings = Settings.load()
    address = (url or base_url(settings)).rstrip("/")
    key = api_key or next((key.get_secret_value() for key in settings.api_keys), None)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    console = Console()
    with _connect(address, headers) as http:
        watcher = Watcher(http)
        if once or not console.is_terminal:
            _print_once(watcher, console, address, interval, as_json=as_json)
        else:
            _watch(watcher, console, address, interval)


def _connect(address: str, headers: dict[str, str]) -> httpx.Client:
    if not address.startswith(("http://", "https://")):
        raise SettingsError(f"{address!r} is no address of a service; one is http://127.0.0.1:8000")
    return httpx.Client(base_url=address, headers=headers, timeout=_TIMEOUT_SECONDS)


def _print_once(
    watcher: Watcher, console: Console, address: str, interval: float, *, as_json: bool
) -> None:
    """Raises MetricsUnavailable."""
    try:
        watcher.read()
        time.sleep(interval)
        view = watcher.read()
    except MetricsUnavailable as error:
        raise MetricsUnavailable(f"{address}: {error}") from None
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(view)).decode())
    else:
        console.print(draw(Look(view=view), url=address, size=console.size))


def _watch(watcher: Watcher, console: Console, address: str, interval: float) -> None:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                frame = draw(watcher.look(), url=address, size=console.size)
                live.update(frame, refresh=True)
                time.sleep(interval)
        except KeyboardInterrupt:
            return
