"""A sequence's KV state in a canonical form that fits any context of the same model and build.

What `llama_state_seq_get_data` writes depends on the context's shape:

    magic u32 | seq id i32 | n_stream u32 | per stream: cell count u32, then its cells if any

Only the sequence's own stream has cells, and on reading they go to the target's own stream
wherever they stand. So the canonical form is that one stream's `cell count + cells`, and a context
of another shape reads it with its own n_stream before and a zero count for each further stream
after.
(llama-kv-cache.cpp, `state_write` and `state_read_sinfo`.)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.errors import LlamaError

Bytes = npt.NDArray[np.uint8]

HEADER_LEN = 12
"""magic, seq id and n_stream."""
COUNT_LEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of `num_tokens` computed tokens; `cells` starts with their count."""

    num_tokens: int
    cells: Bytes

    @property
    def num_bytes(self) -> int:
        return self.cells.nbytes


def canonical(state: Bytes, *, slot: int) -> Snapshot:
    """The one filled stream of `state`, which `slot` wrote; copies nothing."""
    num_streams = _read_count(state, 8)
    start = HEADER_LEN + (slot if num_streams > 1 else 0) * COUNT_LEN
    end = state.nbytes - (num_streams - 1 - slot if num_streams > 1 else 0) * COUNT_LEN
    num_tokens = _read_count(state, start) if end - start >= COUNT_LEN else 0
    return Snapshot(num_tokens=num_tokens, cells=state[start:end])


def write_state(snapshot: Snapshot, *, magic: int, num_streams: int, out: Bytes) -> int:
    """Write `snapshot` into `out` as a context of `num_streams` streams reads it; its length."""
    size = state_size(snapshot, num_streams=num_streams)
    if out.nbytes < size:
        raise LlamaError(f"a snapshot of {size} bytes does not fit a buffer of {out.nbytes}")
    out[:HEADER_LEN] = np.array([magic, 0, num_streams], np.uint32).view(np.uint8)
    end = HEADER_LEN + snapshot.num_bytes
    out[HEADER_LEN:end] = snapshot.cells
    out[end:size] = 0
    return size


def state_size(snapshot: Snapshot, *, num_streams: int) -> int:
    return HEADER_LEN + snapshot.num_bytes + (num_streams - 1) * COUNT_LEN


def _read_count(state: Bytes, offset: int) -> int:
    return int.from_bytes(state[offset : offset + COUNT_LEN].tobytes(), "little")
