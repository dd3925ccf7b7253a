"""One file of the disk tier: a segment's cells, and what they are.

    magic 8 | version u32 | header length u32 | header checksum 16 | header | payload | checksum 16

The header is msgpack. The last checksum covers the header's and the payload, so that no payload
passes under another header. Numbers are little-endian.
"""

import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from service.errors import SnapshotFileError

Bytes = npt.NDArray[np.uint8]

MAGIC = b"smolkv\r\n"
VERSION = 1
_PREFIX = struct.Struct("<8sII16s")
CHECKSUM_LEN = 16
TOKEN_LEN = 4
CHUNK_LEN = 1 << 20
"""Bytes written or read between two looks at the clock; small enough for a processor's cache."""


class FileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Whose tokens a file holds."""

    label: str
    """What the tokens are shared under."""
    tokens: bytes
    """The int32 ids of the run, from its first to `end`."""
    start: int
    end: int
    """The file has the cells of tokens [start, end)."""
    num_public: int
    """Leading tokens of the run that all tenants share."""
    sessions: list[tuple[str, str]]
    """(tenant, session) of those whose run ends here."""

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec makes an error of decoding."""
        if not 0 <= self.start < self.end or len(self.tokens) != self.end * TOKEN_LEN:
            raise ValueError(
                f"tokens [{self.start}, {self.end}) of a run of {len(self.tokens) / TOKEN_LEN}"
            )
        if not 0 <= self.num_public <= self.end:
            raise ValueError(f"{self.num_public} public tokens of {self.end}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file that was found; its payload is checked when it is read."""

    file_id: int
    record: FileRecord
    num_bytes: int
    used_at: float
    """Seconds of the wall clock: the file's own time."""


class _Header(msgspec.Struct, frozen=True):
    fingerprint: str
    record: FileRecord
    payload_len: int


def write_file(
    path: Path,
    fingerprint: str,
    record: FileRecord,
    payload: Sequence[Bytes | memoryview],
    check: Callable[[], None],
) -> int:
    """Write a file and make it durable, but not its name; its length.

    Calls `check` between chunks, which may raise to give up. Raises OSError.
    """
    parts = [(part if isinstance(part, memoryview) else part.data).cast("B") for part in payload]
    payload_len = sum(len(part) for part in parts)
    header = msgspec.msgpack.encode(_Header(fingerprint, record, payload_len))
    header_checksum = _checksum(header)
    checksum = hashlib.blake2b(header_checksum, digest_size=CHECKSUM_LEN)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_PREFIX.pack(MAGIC, VERSION, len(header), header_checksum))
        file.write(header)
        for part in parts:
            for start in range(0, len(part), CHUNK_LEN):
                check()
                chunk = part[start : start + CHUNK_LEN]
                checksum.update(chunk)
                file.write(chunk)
        file.write(checksum.digest())
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def read_record(path: Path, fingerprint: str) -> tuple[FileRecord, int]:
    """What a file holds, and its length; its payload is not read.

    Raises SnapshotFileError, or OSError.
    """
    with path.open("rb") as file:
        header, _ = _read_header(file, fingerprint)
        return header.record, os.fstat(file.fileno()).st_size


def read_payload(path: Path, fingerprint: str) -> Bytes:
    """Raises SnapshotFileError if anything about the file is wrong, or OSError."""
    with path.open("rb") as file:
        header, header_checksum = _read_header(file, fingerprint)
        checksum = hashlib.blake2b(header_checksum, digest_size=CHECKSUM_LEN)
        payload = np.empty(header.payload_len, np.uint8)
        for start in range(0, header.payload_len, CHUNK_LEN):
            chunk = payload.data[start : start + CHUNK_LEN]
            if file.readinto(chunk) != len(chunk):
                raise SnapshotFileError("truncated")
            checksum.update(chunk)
        if file.read(CHECKSUM_LEN) != checksum.digest():
            raise SnapshotFileError("corrupt")
    return payload


def _read_header(file: BinaryIO, fingerprint: str) -> tuple[_Header, bytes]:
    """The header, and its checksum. The file stands at its payload afterwards."""
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size:
        raise SnapshotFileError("truncated")
    magic, version, header_len, header_checksum = _PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise SnapshotFileError("corrupt")
    if version != VERSION:
        raise SnapshotFileError(f"of version {version}")
    if _PREFIX.size + header_len > size:
        raise SnapshotFileError("truncated")
    written = file.read(header_len)
    if _checksum(written) != header_checksum:
        raise SnapshotFileError("corrupt")
    try:
        header = msgspec.msgpack.decode(written, type=_Header)
    except msgspec.DecodeError:
        raise SnapshotFileError("corrupt") from None
    if header.fingerprint != fingerprint:
        raise SnapshotFileError("foreign")
    if size != _PREFIX.size + header_len + header.payload_len + CHECKSUM_LEN:
        raise SnapshotFileError("truncated")
    return header, header_checksum


def _checksum(written: bytes) -> bytes:
    return hashlib.blake2b(written, digest_size=CHECKSUM_LEN).digest()
