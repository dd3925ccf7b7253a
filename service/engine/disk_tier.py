"""The disk tier of a worker: what the store plans of files, done by their thread.

The store speaks of nodes and steps, the files of payloads and the wall clock; this is between.
"""

import time
from pathlib import Path

import structlog

from service.core.plan import Origin, make_tokens
from service.engine.engine import Engine
from service.engine.snapshot_file import Bytes, FileRecord
from service.engine.snapshot_files import Read, SnapshotFiles, Written
from service.errors import LlamaError, SettingsError
from service.kvcache.store import SnapshotStore
from service.scheduler.scheduler import Scheduler

logger = structlog.stdlib.get_logger(__name__)

OPEN_SECONDS = 15.0
"""How long to wait for a folder that another process, which is probably ending, still uses."""
RETRY_SECONDS = 0.1
CLOSE_SECONDS = 20.0
"""How long a worker that ends may write what is only in memory."""


def open_disk_tier(folder: Path, fingerprint: str) -> "DiskTier":
    """Raises SettingsError if the folder cannot be used."""
    until = time.monotonic() + OPEN_SECONDS
    while True:
        try:
            return DiskTier(SnapshotFiles(folder, fingerprint))
        except SettingsError:
            if time.monotonic() > until:
                raise
            time.sleep(RETRY_SECONDS)


class DiskTier:
    """What engines begin to write, read and erase; and what a worker learns has ended."""

    def __init__(self, files: SnapshotFiles) -> None:
        self._files = files
        self._reading: dict[int, int] = {}
        """The segment that each file is read into."""

    @property
    def wakeup_fd(self) -> int:
        """Readable when something has ended."""
        return self._files.wakeup_fd

    def write(self, file_id: int, origin: Origin, payload: list[Bytes]) -> None:
        record = FileRecord(
            label=origin.label,
            tokens=origin.tokens.tobytes(),
            start=origin.start,
            end=len(origin.tokens),
            num_public=origin.num_public,
            sessions=list(origin.sessions),
        )
        self._files.write(file_id, record, payload)

    def read(self, file_id: int, segment_id: int) -> None:
        self._reading[file_id] = segment_id
        self._files.read(file_id)

    def erase(self, file_id: int) -> None:
        self._files.erase(file_id)

    def fill(self, store: SnapshotStore) -> None:
        """Tell the store what an earlier process left."""
        age = time.time() - store.now  # noqa: TID251 - files have the wall clock's time
        found = sorted(self._files.scan(), key=lambda file: (file.used_at, file.file_id))
        for file in found:
            record = file.record
            tokens = make_tokens()
            tokens.frombytes(record.tokens)
            origin = Origin(
                record.label, record.num_public, tokens, record.start, tuple(record.sessions)
            )
            store.adopt(file.file_id, origin, file.used_at - age)

    def settle(self, scheduler: Scheduler, store: SnapshotStore, engine: Engine) -> bool:
        """Tell them what has ended; whether anything has."""
        done = self._files.take_done()
        for each in done:
            match each:
                case Written():
                    store.counters.disk_writes += each.error is None
                    store.counters.disk_write_seconds += each.seconds
                    store.note_written(each.file_id, is_good=each.error is None)
                case Read():
                    segment_id = self._reading.pop(each.file_id)
                    is_good = self._take_in(each, segment_id, engine)
                    store.counters.disk_reads += is_good
                    store.counters.disk_read_seconds += each.seconds
                    if is_good and each.payload is not None:
                        num_tokens = each.payload.nbytes / engine.bytes_per_token
                        store.costs.observe_load(num_tokens, each.seconds)
                    scheduler.note_read(each.file_id, segment_id, is_good=is_good)
        return bool(done)

    def _take_in(self, read: Read, segment_id: int, engine: Engine) -> bool:
        """Whether the engine can use what was read; what it cannot is erased."""
        if read.payload is None:
            return False
        try:
            engine.take_in(segment_id, read.payload.data)
        except LlamaError as error:
            logger.warning("snapshot_file_unusable", file_id=read.file_id, reason=str(error))
            self._files.erase(read.file_id)
            return False
        return True

    def close(self, store: SnapshotStore) -> None:
        """Write down what was used when, and end what was begun."""
        age = time.time() - store.now  # noqa: TID251 - files have the wall clock's time
        for file_id, used_at in store.list_files():
            self._files.note_use(file_id, age + used_at)
        self._files.close(CLOSE_SECONDS)
