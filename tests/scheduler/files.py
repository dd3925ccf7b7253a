"""The disk tier without a disk: what was begun ends when the test says so."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from service.core.plan import Origin
from service.engine.engine import Engine
from service.kvcache.store import SnapshotStore


class Reader(Protocol):
    """Who is told that a file was read: a scheduler."""

    def note_read(self, file_id: int, segment_id: int, *, is_good: bool) -> None: ...


@dataclass
class MemoryFiles:
    """Keeps each file's origin and bytes. A file in `broken` cannot be read."""

    stored: dict[int, tuple[Origin, bytes]] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)
    is_full: bool = False
    _begun: list[tuple[str, int, int]] = field(default_factory=list)
    _writing: dict[int, tuple[Origin, bytes]] = field(default_factory=dict)

    def write(self, file_id: int, origin: Origin, payload: list[np.ndarray]) -> None:
        self._writing[file_id] = origin, b"".join(part.tobytes() for part in payload)
        self._begun.append(("write", file_id, 0))

    def read(self, file_id: int, segment_id: int) -> None:
        self._begun.append(("read", file_id, segment_id))

    def erase(self, file_id: int) -> None:
        self._begun.append(("erase", file_id, 0))

    def settle(self, scheduler: Reader, store: SnapshotStore, engine: Engine) -> None:
        """End all that was begun, in order."""
        begun, self._begun = self._begun, []
        for kind, file_id, segment_id in begun:
            if kind == "write":
                file = self._writing.pop(file_id)
                if not self.is_full:
                    self.stored[file_id] = file
                store.note_written(file_id, is_good=not self.is_full)
            elif kind == "erase":
                self.stored.pop(file_id, None)
            else:
                file = self.stored.get(file_id)
                is_good = file is not None and file_id not in self.broken
                if file is not None and is_good:
                    engine.take_in(segment_id, memoryview(file[1]))
                else:
                    self.stored.pop(file_id, None)
                scheduler.note_read(file_id, segment_id, is_good=is_good)
