"""`smolserve gguf`: inspect, remap, verify and synthesise model files."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from service.core.kv import KvType
from service.gguf import files, tables
from service.gguf.check import Check
from service.gguf.remap import Architecture, remap
from service.gguf.summary import inspect
from service.gguf.synth import Size, WeightType, synthesise
from service.gguf.verify import verify

app = typer.Typer(
    name="gguf",
    add_completion=False,
    help="Model files: inspect, remap, verify, synthesise.",
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")]


@app.command("inspect")
def inspect_file(
    file: Path,
    *,
    slots: Annotated[int, typer.Option(min=1, help="For the estimate of memory.")] = 8,
    context: Annotated[int, typer.Option(min=1, help="Tokens of each slot.")] = 4096,
    kv_type: Annotated[KvType, typer.Option(help="Type of the KV cache.")] = "f16",
    as_json: AsJson = False,
) -> None:
    """Say what FILE holds, from its header alone."""
    summary = inspect(file)
    memory = summary.estimate_memory(num_slots=slots, slot_len=context, kv_type=kv_type)
    if as_json:
        _print_json(msgspec.to_builtins(summary) | {"memory": msgspec.to_builtins(memory)})
    else:
        tables.print_summary(Console(), summary, memory)


@app.command("remap")
def remap_file(
    source: Annotated[Path, typer.Argument(metavar="IN")],
    target: Annotated[Path, typer.Argument(metavar="OUT")],
    *,
    architecture: Annotated[
        Architecture, typer.Option(help="llama is for loaders that know nothing else.")
    ] = "smollm3",
    accept_rope_everywhere: Annotated[
        bool,
        typer.Option("--accept-rope-everywhere", help="Accept wrong answers, see llama above."),
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write IN to OUT with the llama family's keys beside SmolLM3's, and its NoPE layers."""
    with _show_progress("remap") as progress:
        remapped = remap(
            source,
            target,
            architecture=architecture,
            accept_rope_everywhere=accept_rope_everywhere,
            force=force,
            progress=progress,
        )
    if as_json:
        _print_json(msgspec.to_builtins(remapped, builtin_types=(Path,), enc_hook=str))
    else:
        typer.echo(f"{target}: {remapped.message}")


@app.command("verify")
def verify_file(file: Path, *, as_json: AsJson = False) -> None:
    """Check FILE before serving it; exit code 1 if any check fails."""
    checks: list[Check] = []
    for check in verify(file):
        checks.append(check)
        if not as_json:
            typer.echo(tables.format_check(check))
    if as_json:
        _print_json(msgspec.to_builtins(checks))
    if any(check.outcome == "failed" for check in checks):
        raise typer.Exit(1)


@app.command()
def synth(
    target: Annotated[Path, typer.Argument(metavar="OUT")],
    *,
    size: Annotated[Size, typer.Option(help="tiny for tests, 3b for speed and memory.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same file.")] = 0,
    weights: Annotated[WeightType, typer.Option("--type", help="f32 for tiny only.")] = "q4_k_m",
    force: Force = False,
) -> None:
    """Write a file of SmolLM3's shape with random weights."""
    with _show_progress("synth") as progress:
        synthesise(target, size, seed=seed, weights=weights, force=force, progress=progress)
    typer.echo(f"{target}: {size}, seed {seed}, {tables.count_bytes(target.stat().st_size)}")


@contextmanager
def _show_progress(what: str) -> Generator[files.Progress]:
    """A bar on stderr while it is a terminal, nothing otherwise."""
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _print_json(value: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value)).decode())
