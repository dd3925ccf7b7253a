"""Free space, and one process at a time in a folder."""

import fcntl
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from service.errors import DownloadError

FreeBytes = Callable[[Path], int]


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def require_space(folder: Path, num_bytes: int, free: FreeBytes) -> None:
    """Raises DownloadError when fewer than `num_bytes` are free."""
    available = free(folder)
    if available < num_bytes:
        raise DownloadError(
            f"the disk is full: {num_bytes / 1e6:,.0f} MB are needed in {folder} and "
            f"{available / 1e6:,.0f} MB are free; free some space and run it again"
        )


@contextmanager
def locked_folder(folder: Path, on_wait: Callable[[], None]) -> Generator[None]:
    """Held until the block ends or the process dies; leaves no lock file behind."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
