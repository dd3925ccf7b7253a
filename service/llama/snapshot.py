"""A sequence's KV state in a canonical form that fits any context of the same model and build.

What `llama_state_seq_get_data` writes depends on the context's shape:

    magic u32 | seq id i32 | n_stream u32 | per stream: cell count u32, then its cells if any

Only the sequence's own stream has cells, and on reading they go to the target's own stream
wherever they stand. So the canonical form is that one stream's `cell count + cells`, and a context
of another shape reads it with its own n_stream before and a zero count for each further stream
after.

The cells of n tokens are *planes*, each with a header that does not depend on n:

    meta       n times (pos i32, n_seq_id u32 = 1, seq id i32, which readers ignore)
    keys       v_trans u32, n_layer u32, then per layer: type i32, row size u64 | n rows
    values     per layer: the same as keys; or, transposed (without flash attention),
               type i32, element size u32, n_embd u32 | n_embd rows of n elements

A plane is thus some rows with a fixed number of bytes for each cell, quantised or not, and tokens
are cut out of it, or put together, by slicing its columns.
(llama-kv-cache.cpp, `state_write`, `state_write_meta`, `state_write_data`, `state_read_sinfo`.)
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.errors import LlamaError

Bytes = npt.NDArray[np.uint8]

HEADER_LEN = 12
"""magic, seq id and n_stream."""
COUNT_LEN = 4
META_LEN = 12
"""Position, number of sequences, the one sequence."""


class Scratch:
    """Memory that states pass through, kept for the next one: as much as the longest took.

    Pages that a process touches for the first time take several times as long as the copy itself.
    """

    def __init__(self) -> None:
        self._buffer: Bytes = np.empty(0, np.uint8)

    def take(self, num_bytes: int) -> Bytes:
        """So much of it, with any content; the last caller's is overwritten."""
        if self._buffer.nbytes < num_bytes:  # what is never touched takes no memory
            self._buffer = np.empty(max(num_bytes, 2 * self._buffer.nbytes), np.uint8)
        return self._buffer[:num_bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """Some rows, each with `cell_len` bytes for every cell."""

    header: bytes
    """What llama.cpp writes before it; says types and sizes, so equal headers mean equal kinds."""
    num_rows: int
    cell_len: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How the cells of one model, KV type and attention mode are laid out, however many."""

    planes: tuple[Plane, ...]

    def size(self, num_tokens: int) -> int:
        return COUNT_LEN + sum(
            len(plane.header) + plane.num_rows * plane.cell_len * num_tokens
            for plane in self.planes
        )

    def sections(self, cells: Bytes, num_tokens: int) -> Iterator[tuple[Bytes, Bytes]]:
        """Views of each plane's header, and of its (num_rows, num_tokens * cell_len) bytes."""
        end = COUNT_LEN
        for plane in self.planes:
            start = end + len(plane.header)
            header = cells[end:start]
            row_len = num_tokens * plane.cell_len
            end = start + plane.num_rows * row_len
            yield header, cells[start:end].reshape(plane.num_rows, row_len)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a sequence's tokens [start, start + num_tokens); `cells` starts with a count."""

    start: int
    num_tokens: int
    layout: Layout
    cells: Bytes

    @property
    def end(self) -> int:
        return self.start + self.num_tokens

    @property
    def num_bytes(self) -> int:
        return self.cells.nbytes


def canonical(state: Bytes, *, slot: int) -> Snapshot:
    """The one filled stream of `state`, which `slot` wrote; copies nothing.

    Raises LlamaError if its layout is not the one above.
    """
    num_streams = _read_count(state, 8)
    start = HEADER_LEN + (slot if num_streams > 1 else 0) * COUNT_LEN
    end = state.nbytes - (num_streams - 1 - slot if num_streams > 1 else 0) * COUNT_LEN
    return parse_snapshot(state[start:end])


def parse_snapshot(cells: Bytes) -> Snapshot:
    """A snapshot over `cells`, which it keeps.

    Raises LlamaError if they are not laid out as above, or their tokens are not consecutive.
    """
    num_tokens = _read_count(cells, 0) if cells.nbytes >= COUNT_LEN else 0
    cursor = _Cursor(cells, num_tokens)
    if num_tokens == 0:
        return Snapshot(start=0, num_tokens=0, layout=cursor.finish(), cells=cells)
    cursor.add_plane(num_rows=1, cell_len=META_LEN)
    is_transposed, num_layers = cursor.read("<II")
    if is_transposed > 1:
        raise cursor.error(f"v_trans is {is_transposed}")
    for _ in range(num_layers):
        _, row_len = cursor.read("<iQ")
        cursor.add_plane(num_rows=1, cell_len=row_len)
    for _ in range(0 if cursor.is_at_end else num_layers):
        if is_transposed:
            _, element_len, num_rows = cursor.read("<iII")
            cursor.add_plane(num_rows=num_rows, cell_len=element_len)
        else:
            _, row_len = cursor.read("<iQ")
            cursor.add_plane(num_rows=1, cell_len=row_len)
    layout = cursor.finish()
    meta = cells[COUNT_LEN : COUNT_LEN + num_tokens * META_LEN].view(np.int32).reshape(-1, 3)
    start = int(meta[0, 0])
    if start < 0 or not np.array_equal(meta[:, 0], np.arange(start, start + num_tokens)):
        raise cursor.error("the positions are not consecutive")
    if np.any(meta[:, 1] != 1):
        raise cursor.error("a cell does not belong to one sequence")
    return Snapshot(start=start, num_tokens=num_tokens, layout=layout, cells=cells)


def cut(snapshot: Snapshot, start: int, end: int) -> Snapshot:
    """A copy of the tokens [start, end) of the sequence, at least one, which `snapshot` holds."""
    if not snapshot.start <= start < end <= snapshot.end:
        raise LlamaError(
            f"tokens {start} to {end} are not within {snapshot.start} to {snapshot.end}"
        )
    cells = np.empty(snapshot.layout.size(end - start), np.uint8)
    _gather([snapshot], start, end, out=cells)
    return Snapshot(start=start, num_tokens=end - start, layout=snapshot.layout, cells=cells)


def write_state(
    parts: Sequence[Snapshot], num_tokens: int, *, magic: int, num_streams: int, out: Bytes
) -> int:
    """Write the first `num_tokens` tokens into `out`, for a context of `num_streams`; the length.

    Raises LlamaError if `parts` are not consecutive snapshots of one layout that start at token 0
    and hold so many, or do not fit.
    """
    _check_parts(parts, num_tokens)
    size = state_size(parts, num_tokens, num_streams=num_streams)
    if out.nbytes < size:
        raise LlamaError(f"a state of {size} bytes does not fit a buffer of {out.nbytes}")
    out[:HEADER_LEN] = np.array([magic, 0, num_streams], np.uint32).view(np.uint8)
    end = size - (num_streams - 1) * COUNT_LEN
    _gather(parts, 0, num_tokens, out=out[HEADER_LEN:end])
    out[end:size] = 0
    return size


def state_size(parts: Sequence[Snapshot], num_tokens: int, *, num_streams: int) -> int:
    return HEADER_LEN + parts[0].layout.size(num_tokens) + (num_streams - 1) * COUNT_LEN


def _check_parts(parts: Sequence[Snapshot], num_tokens: int) -> None:
    end = 0
    for part in parts:
        if part.start != end:
            raise LlamaError(f"a snapshot of tokens from {part.start} does not follow {end} tokens")
        if part.layout != parts[0].layout:
            raise LlamaError("snapshots of different layouts do not make one state")
        end = part.end
    if not 0 < num_tokens <= end:
        raise LlamaError(f"snapshots of {end} tokens do not make a state of {num_tokens}")


def _gather(parts: Sequence[Snapshot], start: int, end: int, *, out: Bytes) -> None:
    """Write the tokens [start, end) of consecutive `parts` into `out`, as one snapshot's cells."""
    ranges = [
        (part, max(start, part.start) - part.start, min(end, part.end) - part.start)
        for part in parts
        if start < part.end and part.start < end
    ]
    layout = parts[0].layout
    out[:COUNT_LEN] = np.array([end - start], np.uint32).view(np.uint8)
    targets = layout.sections(out, end - start)
    sources = [layout.sections(part.cells, part.num_tokens) for part, _, _ in ranges]
    for plane, (header, target), *sections in zip(layout.planes, targets, *sources, strict=True):
        header[:] = sections[0][0]
        column = 0
        for (_, first, last), (_, source) in zip(ranges, sections, strict=True):
            next_column = column + (last - first) * plane.cell_len
            target[:, column:next_column] = source[
                :, first * plane.cell_len : last * plane.cell_len
            ]
            column = next_column


class _Cursor:
    """Reads cells from their start, and remembers the planes that it passed."""

    def __init__(self, cells: Bytes, num_tokens: int) -> None:
        self._cells = cells.data
        self._num_tokens = num_tokens
        self._header_start = self._offset = COUNT_LEN
        self._planes: list[Plane] = []

    @property
    def is_at_end(self) -> bool:
        return self._offset == len(self._cells)

    def read(self, form: str) -> tuple[int, ...]:
        """The next integers of a header."""
        end = self._offset + struct.calcsize(form)
        if end > len(self._cells):
            raise self.error("it is too short")
        values = struct.unpack_from(form, self._cells, self._offset)
        self._offset = end
        return values

    def add_plane(self, *, num_rows: int, cell_len: int) -> None:
        """Pass a plane, whose header is what was read since the last."""
        end = self._offset + num_rows * cell_len * self._num_tokens
        if num_rows * cell_len == 0 or end > len(self._cells):
            raise self.error(f"plane {len(self._planes)} has {num_rows} rows of {cell_len} a cell")
        header = bytes(self._cells[self._header_start : self._offset])
        self._planes.append(Plane(header=header, num_rows=num_rows, cell_len=cell_len))
        self._header_start = self._offset = end

    def finish(self) -> Layout:
        if not self.is_at_end:
            raise self.error(f"its planes end at {self._offset}")
        return Layout(tuple(self._planes))

    def error(self, what: str) -> LlamaError:
        return LlamaError(
            f"a state of {self._num_tokens} tokens in {len(self._cells)} bytes is not laid out "
            f"as this service knows it: {what}"
        )


def _read_count(state: Bytes, offset: int) -> int:
    return int.from_bytes(state[offset : offset + COUNT_LEN].tobytes(), "little")
