"""How far a download is: a bar on a terminal, else a line every few seconds."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as SpeedColumn

ReportProgress = Callable[[int, int | None], None]
"""Called with the bytes that are here and the bytes there will be, if that is known."""

_LINE_INTERVAL_SECONDS = 5.0


def ignore_progress(num_bytes: int, total: int | None) -> None:
    """For callers that show nothing."""


@contextmanager
def show_progress(title: str, console: Console) -> Generator[ReportProgress]:
    if not console.is_terminal:
        yield _LineReporter(title, console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), SpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda num_bytes, total: progress.update(task, completed=num_bytes, total=total)


class _LineReporter:
    def __init__(self, title: str, console: Console) -> None:
        self._title, self._console = title, console
        self._last = time.monotonic()

    def __call__(self, num_bytes: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self._last < _LINE_INTERVAL_SECONDS:
            return
        self._last = now
        of = f" of {total / 1e6:,.0f}" if total else ""
        self._console.print(f"{self._title}: {num_bytes / 1e6:,.0f}{of} MB", highlight=False)
