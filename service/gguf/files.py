"""Big files: copied without being read, and visible only once they are whole."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from service.errors import ModelFileError

Progress = Callable[[int, int], None]
"""Called with the bytes written so far and in all."""

PAGE = 4096
"""File systems share extents (reflink) of whole blocks of this size."""

_STEP = 32 << 20
_BUFFER = 4 << 20
_NO_KERNEL_COPY = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


def ignore_progress(_done: int, _total: int) -> None:
    """For callers that do not watch."""


def require_absent(path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder; name the file to write")
    if not force and path.exists():
        raise ModelFileError(f"{path} exists; pass --force to replace it")


def require_space(folder: Path, num_bytes: int) -> None:
    if not folder.is_dir():
        raise ModelFileError(f"the folder {folder} does not exist; create it first")
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise ModelFileError(
            f"{folder} has {free} bytes free and {num_bytes} are needed; "
            f"free {num_bytes - free} bytes or write to another disk"
        )


@contextmanager
def atomic_file(path: Path, *, force: bool) -> Generator[FileIO]:
    """Write beside `path`; rename to it when the block ends well, remove it when it does not.

    What a killed process left is overwritten. Raises ModelFileError if `path` exists without
    `force`, another process is writing it, or nothing can be written there.
    """
    require_absent(path, force=force)
    part = path.with_name(f".{path.name}.part")
    try:
        with FileIO(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+") as file:
            _lock(file, part)
            try:
                file.truncate(0)
                yield file
                os.fsync(file.fileno())
                require_absent(path, force=force)
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ModelFileError(f"{path} cannot be written: {error.strerror}") from error


def _lock(file: FileIO, path: Path) -> None:
    """Be the only one who writes `file`, and be sure that it still is what `path` names."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_same = os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        is_same = False
    if not is_same:
        raise ModelFileError(f"another process is writing {path}; try again when it has ended")


def write_all(file: FileIO, data: bytes | memoryview) -> None:
    """`FileIO.write` may write less than it was given."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]


def copy_bytes(source: FileIO, start: int, target: FileIO, progress: Progress) -> None:
    """Append `source[start:]` to `target`, by the kernel where it can.

    Where both positions are equal modulo `PAGE`, file systems that can share extents do so.
    """
    total = os.fstat(source.fileno()).st_size - start
    done, kernel_copies = 0, hasattr(os, "copy_file_range")
    position = target.tell()
    while done < total:
        # The first step ends on a page, so that the following ones can be reflinked.
        step = min(_STEP - (start + done) % PAGE, total - done)
        copied = None
        if kernel_copies:
            copied = _copy_in_kernel(source, start + done, target, position + done, step)
            kernel_copies = copied is not None
        if copied is None:
            copied = _copy_through_memory(source, start + done, target, position + done, step)
        if copied == 0:
            raise ModelFileError("the source file became shorter while it was copied")
        done += copied
        progress(done, total)
    target.seek(position + done)


def _copy_in_kernel(
    source: FileIO, source_offset: int, target: FileIO, target_offset: int, length: int
) -> int | None:
    """None if this kernel or pair of file systems cannot."""
    try:
        return os.copy_file_range(
            source.fileno(), target.fileno(), length, source_offset, target_offset
        )
    except OSError as error:
        if error.errno in _NO_KERNEL_COPY:
            return None
        raise


def _copy_through_memory(
    source: FileIO, source_offset: int, target: FileIO, target_offset: int, length: int
) -> int:
    data = os.pread(source.fileno(), min(length, _BUFFER), source_offset)
    return os.pwrite(target.fileno(), data, target_offset)
