"""What KV state depends on: a file of it fits only where all of this is the same."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from service.core.kv import FlashAttention, KvType

STATE_VERSION = 1
"""Of service.llama.snapshot's form; changes with it."""
DIGEST_LEN = 16


class Computation(msgspec.Struct, frozen=True, kw_only=True):
    """How the state was computed, beside the model and the build.

    What rounds as another batch shape does (threads, slots, the step's budget) is not here.
    Repacked weights and devices are: other kernels compute, and a worker that goes without
    repacking does so because those kernels are suspect.
    """

    kv_type: KvType
    flash_attention: FlashAttention
    """The chosen one; it decides whether values are kept transposed."""
    rope_scaling: float
    extra_buffers: bool
    """Whether llama.cpp did repack weights, not whether it was allowed to."""
    devices: tuple[str, ...]
    """Names of the GPUs that compute; none is the CPU."""


class _HashedFile(msgspec.Struct, frozen=True):
    size: int
    mtime_ns: int
    digest: bytes


_Hashes = dict[str, _HashedFile]


def fingerprint(
    model: Path, libraries: Sequence[Path], computation: Computation, *, hashes: Path
) -> str:
    """A name for all that state depends on, as hexadecimal digits.

    The model and the libraries of llama.cpp count by content: two builds of one version differ in
    compilers and flags. `hashes` is a file that remembers digests by path, size and time of change,
    so that a model is read whole once and not at each start; workers may share it.

    Raises OSError if the model or a library cannot be read.
    """
    known = _read_hashes(hashes)
    found: _Hashes = {}
    whole = hashlib.blake2b(digest_size=DIGEST_LEN)
    whole.update(b"%d" % STATE_VERSION + msgspec.json.encode(computation))
    for path in (model, *sorted(libraries)):
        key = str(path.resolve())
        found[key] = _hash_file(path, known.get(key))
        whole.update(found[key].digest)
    if not found.items() <= known.items():
        _write_hashes(hashes, known | found)
    return whole.hexdigest()


def _hash_file(path: Path, known: _HashedFile | None) -> _HashedFile:
    with path.open("rb") as file:
        # Before reading: what is written to meanwhile then has another time at the next start.
        status = os.fstat(file.fileno())
        if known and (known.size, known.mtime_ns) == (status.st_size, status.st_mtime_ns):
            return known
        digest = hashlib.file_digest(file, "blake2b").digest()
        return _HashedFile(status.st_size, status.st_mtime_ns, digest)


def _read_hashes(path: Path) -> _Hashes:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Hashes)
    except (OSError, msgspec.DecodeError):
        return {}


def _write_hashes(path: Path, hashes: _Hashes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with contextlib.suppress(OSError):  # the next start reads the model again
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_bytes(msgspec.json.encode(hashes))
        temporary.replace(path)
