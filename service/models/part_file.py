"""A file that is still arriving."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_CHUNK_LEN = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """What a file must be, or is."""

    size: int
    sha256: str


class PartFile:
    """Bytes received so far, on disk, hashed as they come. Opens what an earlier process left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Unbuffered: a disk that is full must fail the write at hand, not the close after it.
        self._file = path.open("a+b", buffering=0)
        self._sha256 = hashlib.sha256()
        self.size = 0
        self._hash_existing()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            num_written = self._file.write(rest)
            assert num_written is not None, "the file is blocking"
            self._sha256.update(rest[:num_written])
            self.size += num_written
            rest = rest[num_written:]

    def restart(self) -> None:
        self._file.truncate(0)
        self._sha256 = hashlib.sha256()
        self.size = 0

    def digest(self) -> Digest:
        return Digest(size=self.size, sha256=self._sha256.hexdigest())

    def _hash_existing(self) -> None:
        self._file.seek(0)
        while data := self._file.read(_CHUNK_LEN):
            self._sha256.update(data)
            self.size += len(data)


def digest_file(path: Path) -> Digest:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256")
        return Digest(size=file.tell(), sha256=sha256.hexdigest())
