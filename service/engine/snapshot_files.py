"""The files of the disk tier: a folder of them, and the thread that reads and writes it."""

import contextlib
import fcntl
import os
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from service.engine.snapshot_file import (
    Bytes,
    FileRecord,
    StoredFile,
    read_payload,
    read_record,
    write_file,
)
from service.errors import SettingsError, SnapshotFileError

logger = structlog.stdlib.get_logger(__name__)

LOCK = "lock"
_STORED = re.compile(r"[0-9a-f]{16}\.kv")
_TEMPORARY = re.compile(r"[0-9a-f]{16}\.tmp")

MAX_FAILURES = 3
"""Writes in a row that may fail before writing pauses."""
PAUSE_SECONDS = 60.0
TOO_LATE = "not written before the deadline"
NICENESS = 19
"""Of the thread. llama.cpp's threads wait for each other by spinning: one that loses its core for a
time slice holds up all of them."""
GRACE_SECONDS = 1.0
"""For giving up what the deadline interrupts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A write has ended. `num_bytes` is the file's length, 0 with an error."""

    file_id: int
    num_bytes: int
    seconds: float
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A read has ended. Without payload there is an error, and no such file any more."""

    file_id: int
    payload: Bytes | None
    seconds: float
    error: str | None


@dataclass(frozen=True, slots=True)
class _Write:
    file_id: int
    record: FileRecord
    payload: tuple[Bytes | memoryview, ...]

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in self.payload)


@dataclass(frozen=True, slots=True)
class _Read:
    file_id: int


@dataclass(frozen=True, slots=True)
class _Erase:
    file_id: int


class _Sync:
    """Make the folder's names durable."""


_Job = _Write | _Read | _Erase | _Sync


class SnapshotFiles:
    """Owns a folder, which no other process may use meanwhile, and the thread that works on it.

    `write`, `read` and `erase` return at once. Each write and each read has exactly one completion;
    whatever is wrong is an error in it, never an exception. A request waits for a read and nobody
    for a write, so reads and erasures go first; for one file, the order of calls holds.
    """

    def __init__(
        self, folder: Path, fingerprint: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the folder, which is made if it is not there.

        Raises SettingsError if it cannot be used, or another process uses it.
        """
        self._folder = folder
        self._fingerprint = fingerprint
        self._clock = clock
        self._lock = _lock_folder(folder)
        self.wakeup_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable when there is something to take."""
        self._done: deque[Written | Read] = deque()
        # Held for some operations on these only, never while a file is worked on.
        self._condition = threading.Condition()
        self._urgent: deque[_Read | _Erase] = deque()
        self._writes: dict[int, _Write] = {}
        self._pending_bytes = 0
        self._deadline: float | None = None
        # The thread's own.
        self._has_unsynced_names = False
        self._num_failures = 0
        self._paused_until = 0.0
        self._thread = threading.Thread(
            target=self._run,
            name="snapshot-files",
            daemon=True,  # a disk that hangs must not keep the process
        )
        self._thread.start()

    @property
    def pending_bytes(self) -> int:
        """Of the payloads that wait to be written, or are being written."""
        with self._condition:
            return self._pending_bytes

    def scan(self) -> list[StoredFile]:
        """What an earlier process left, by id; reads headers only. For the start, before any write.

        What cannot be used is deleted: it would never be usable again.
        """
        stored: list[StoredFile] = []
        discarded: Counter[str] = Counter()
        for path in sorted(self._folder.iterdir()):
            reason = "half-written"
            if _STORED.fullmatch(path.name):
                try:
                    record, num_bytes = read_record(path, self._fingerprint)
                except (SnapshotFileError, OSError) as error:
                    reason = _describe(error)
                else:
                    file_id = int(path.stem, 16)
                    used_at = path.stat().st_mtime
                    stored.append(
                        StoredFile(
                            file_id=file_id, record=record, num_bytes=num_bytes, used_at=used_at
                        )
                    )
                    continue
            elif not _TEMPORARY.fullmatch(path.name):
                continue
            discarded[reason] += 1
            _remove(path)
        for reason, num_files in discarded.items():
            logger.warning(
                "snapshot_files_discarded",
                folder=str(self._folder),
                reason=reason,
                num_files=num_files,
                means="what they held is computed again when it is needed",
            )
        return stored

    def write(
        self, file_id: int, record: FileRecord, payload: Sequence[Bytes | memoryview]
    ) -> None:
        """Store a new file. The payload must not change before the completion."""
        job = _Write(file_id, record, tuple(payload))
        with self._condition:
            assert self._deadline is None
            assert file_id not in self._writes
            self._writes[file_id] = job
            self._pending_bytes += job.num_bytes
            self._condition.notify()

    def read(self, file_id: int) -> None:
        self._hurry(_Read(file_id))

    def erase(self, file_id: int) -> None:
        """Remove a file; has no completion. A write of it that has not begun ends with an error."""
        self._hurry(_Erase(file_id))

    def note_use(self, file_id: int, used_at: float) -> None:
        """Remember when a written file was last used, for the next process."""
        with contextlib.suppress(OSError):
            os.utime(self._path(file_id), (used_at, used_at))

    def take_done(self) -> list[Written | Read]:
        """What has ended since the last call, in the order in which it did."""
        with contextlib.suppress(BlockingIOError):
            # Before looking, so that what ends meanwhile wakes again.
            os.eventfd_read(self.wakeup_fd)
        return [self._done.popleft() for _ in range(len(self._done))]

    def close(self, deadline_seconds: float) -> None:
        """Finish queued writes and erasures, within a deadline; then give the folder free.

        Reads that wait are given up, as are the writes that come too late.
        """
        with self._condition:
            self._deadline = self._clock() + deadline_seconds
            self._condition.notify()
        self._thread.join(deadline_seconds + GRACE_SECONDS)
        if self._thread.is_alive():
            logger.warning(
                "snapshot_files_abandoned",
                folder=str(self._folder),
                means="the disk did not answer in time; what was being written is lost",
            )
            return
        os.close(self.wakeup_fd)
        os.close(self._lock)

    def _hurry(self, job: _Read | _Erase) -> None:
        with self._condition:
            assert self._deadline is None
            self._urgent.append(job)
            self._condition.notify()

    def _run(self) -> None:
        # Linux has a priority for each thread; POSIX would make it the process's.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while (job := self._next_job()) is not None:
            match job:
                case _Write():
                    self._write(job)
                case _Read(file_id):
                    self._write_first(file_id)
                    self._read(file_id)
                case _Erase(file_id):
                    self._give_up_write(file_id)
                    self._erase(file_id)
                case _Sync():
                    self._sync_names()

    def _next_job(self) -> _Job | None:
        """Waits for one; None when closed and done."""
        with self._condition:
            while True:
                if self._urgent:
                    return self._urgent.popleft()
                if self._writes:
                    return self._writes.pop(next(iter(self._writes)))
                if self._has_unsynced_names:
                    return _Sync()
                if self._deadline is not None:
                    return None
                self._condition.wait()

    def _write_first(self, file_id: int) -> None:
        with self._condition:
            job = self._writes.pop(file_id, None)
        if job is not None:
            self._write(job)

    def _give_up_write(self, file_id: int) -> None:
        with self._condition:
            job = self._writes.pop(file_id, None)
        if job is not None:
            self._end_write(job, 0, self._clock(), "erased before it was written")

    def _write(self, job: _Write) -> None:
        started = self._clock()
        num_bytes = 0
        error = self._refusal()
        if error is None:
            try:
                num_bytes = self._store(job)
            except Exception as failure:  # noqa: BLE001 - the top of the thread's loop
                error = _describe(failure)
                self._note_failure(error)
            else:
                self._num_failures = 0
        self._end_write(job, num_bytes, started, error)

    def _refusal(self) -> str | None:
        """Why nothing is written now."""
        if self._clock() < self._paused_until:
            return f"writing pauses after {self._num_failures} failures in a row"
        return TOO_LATE if self._is_past_deadline() else None

    def _is_past_deadline(self) -> bool:
        return self._deadline is not None and self._clock() >= self._deadline

    def _store(self, job: _Write) -> int:
        """Under a temporary name first, so that a file is whole or not there. Its length."""
        temporary = self._path(job.file_id).with_suffix(".tmp")
        try:
            num_bytes = write_file(
                temporary, self._fingerprint, job.record, job.payload, self._check_deadline
            )
            temporary.replace(self._path(job.file_id))
        except BaseException:
            _remove(temporary)
            raise
        self._has_unsynced_names = True
        self._sync_names()
        return num_bytes

    def _check_deadline(self) -> None:
        if self._is_past_deadline():
            raise SnapshotFileError(TOO_LATE)

    def _note_failure(self, error: str) -> None:
        self._num_failures += 1
        pauses = self._num_failures >= MAX_FAILURES
        if pauses:
            self._paused_until = self._clock() + PAUSE_SECONDS
        logger.warning(
            "snapshot_file_not_written",
            folder=str(self._folder),
            reason=error,
            pause_seconds=PAUSE_SECONDS if pauses else 0,
        )

    def _end_write(self, job: _Write, num_bytes: int, started: float, error: str | None) -> None:
        with self._condition:
            self._pending_bytes -= job.num_bytes
        seconds = self._clock() - started
        self._finish(
            Written(file_id=job.file_id, num_bytes=num_bytes, seconds=seconds, error=error)
        )

    def _read(self, file_id: int) -> None:
        started = self._clock()
        payload = error = None
        path = self._path(file_id)
        if self._deadline is not None:
            error = "closed"
        else:
            try:
                payload = read_payload(path, self._fingerprint)
                os.utime(path)
            except Exception as failure:  # noqa: BLE001 - the top of the thread's loop
                error = _describe(failure)
                _remove(path)
                logger.warning(
                    "snapshot_file_discarded",
                    folder=str(self._folder),
                    file=path.name,
                    reason=error,
                    means="what it held is computed again",
                )
        seconds = self._clock() - started
        self._finish(Read(file_id=file_id, payload=payload, seconds=seconds, error=error))

    def _erase(self, file_id: int) -> None:
        path = self._path(file_id)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning(
                "snapshot_file_not_erased",
                folder=str(self._folder),
                file=path.name,
                reason=_describe(error),
            )
        else:
            self._has_unsynced_names = True

    def _sync_names(self) -> None:
        self._has_unsynced_names = False
        try:
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return  # a folder that vanished has no names
        try:
            with contextlib.suppress(OSError):  # some file systems cannot, and need not
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _finish(self, done: Written | Read) -> None:
        self._done.append(done)
        os.eventfd_write(self.wakeup_fd, 1)

    def _path(self, file_id: int) -> Path:
        return self._folder / f"{file_id:016x}.kv"


def _lock_folder(folder: Path) -> int:
    """Make a folder ours alone; a descriptor that holds the lock."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SettingsError(
            f"KV state cannot be kept in {folder}: {error.strerror}; choose another folder"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise SettingsError(
            f"another process keeps KV state in {folder} (it holds {folder / LOCK}: "
            f"{error.strerror}); stop it, or choose another folder"
        ) from None
    return lock


def _remove(path: Path) -> None:
    """What cannot be removed is found again by the next scan."""
    with contextlib.suppress(OSError):
        path.unlink()


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
