"""`smolserve models`: what the catalogue has, and fetching it."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table

from service.models.catalog import CatalogEntry, find_entry, load_catalog
from service.models.progress import show_progress
from service.models.pull import Puller
from service.settings import Settings

app = typer.Typer(
    name="models",
    add_completion=False,
    help="Models: list the catalogue, fetch one.",
    no_args_is_help=True,
)

ModelsDir = Annotated[
    Path | None, typer.Option(help="Folder that model files are kept in.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class ModelState(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the catalogue and whether it is here."""

    name: str
    state: Literal["here", "partly here", "not here"]
    size: int | None
    """Bytes; None when neither the catalogue nor a file says."""
    context_len: int
    license: str
    description: str
    path: str


@app.command("list")
def list_models(models_dir: ModelsDir = None, *, as_json: AsJson = False) -> None:
    """List the models of the catalogue and which of them are here."""
    folder = _choose_folder(models_dir)
    states = [_look(entry, folder) for entry in load_catalog(folder).values()]
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(states)))
        return
    table = Table(Column("name", no_wrap=True), "state", "size", "context", "description", box=None)
    for state in states:
        size = f"{state.size / 1e6:,.0f} MB" if state.size else "?"
        context = f"{state.context_len:,}"
        table.add_row(state.name, state.state, size, context, state.description)
    Console().print(table)


@app.command()
def pull(name: str, models_dir: ModelsDir = None, *, as_json: AsJson = False) -> None:
    """Fetch a model and check its SHA-256; goes on where an earlier pull broke off."""
    folder = _choose_folder(models_dir)
    entry = find_entry(load_catalog(folder), name)
    console = Console(stderr=True)
    with show_progress(name, console) as report:
        puller = Puller(
            models_dir=folder,
            endpoint=Settings.load().download.endpoint,
            report=report,
            on_wait=lambda: console.print(f"another pull is fetching into {folder}; waiting"),
        )
        file = puller.pull(entry)
    if as_json:
        typer.echo(msgspec.json.encode(_look(entry, folder)))
    else:
        typer.echo(f"{name} is at {file.path}")


def _choose_folder(option: Path | None) -> Path:
    return option if option is not None else Settings.load().models_dir


def _look(entry: CatalogEntry, folder: Path) -> ModelState:
    path = folder / entry.file_name
    part = path.with_name(f"{path.name}.part")
    state = "here" if path.exists() else "partly here" if part.exists() else "not here"
    return ModelState(
        name=entry.name,
        state=state,
        size=path.stat().st_size if path.exists() else entry.source.size,
        context_len=entry.context_len,
        license=entry.license,
        description=entry.description,
        path=str(path),
    )
