"""A context: one size class of slots over a model, each with KV cells of its own."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import llama_cpp
import numpy as np
import numpy.typing as npt

from service.core.kv import CELL_ALIGNMENT, FlashAttention, KvType
from service.errors import LlamaError
from service.llama.batch import Batch
from service.llama.library import measure_memory
from service.llama.model import LlamaModel
from service.llama.snapshot import (
    Bytes,
    Scratch,
    Snapshot,
    canonical,
    cut,
    state_size,
    write_state,
)

_KV_TYPES: dict[KvType, int] = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}
_FLASH_ATTENTION: dict[FlashAttention, int] = {"auto": -1, "off": 0, "on": 1}

MAX_SCORES_BYTES = 256 << 20
"""Without flash attention, a pass holds a float for every head, row and cell of a slot. Contexts of
long slots take fewer rows a pass to stay within this."""
MIN_PASS_LEN = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextShape:
    """What a context is opened with. Every slot has `slot_len` cells reserved."""

    num_slots: int
    slot_len: int
    batch_len: int
    """Most tokens that one `decode` takes."""
    threads: int
    num_drafts: int = 0
    """Rows beside one for each slot whose logits one `decode` gives."""
    kv_type: KvType = "f16"
    flash_attention: FlashAttention = "auto"
    rope_scaling: float = 1.0
    """YaRN factor; above 1 it stretches the trained context."""
    gives_states: bool = False
    """For `states`: every row is an output then."""


class LlamaContext:
    """Owns a `llama_context`. A slot is a llama sequence id with a stream of cells of its own."""

    def __init__(
        self, model: LlamaModel, shape: ContextShape, *, scratch: Scratch | None = None
    ) -> None:
        """Reserve the cells; takes about 0.1 s per thousand tokens times slots.

        Contexts of one thread can share `scratch`.
        Raises LlamaError, with llama.cpp's reason, if the memory cannot be had or types do not fit.
        """
        with measure_memory() as self.memory:
            handle = llama_cpp.llama_init_from_model(model.handle, _parameters(model, shape))
        if not handle:
            reason = " / ".join(self.memory.errors) or "llama.cpp gives no reason"
            raise LlamaError(
                f"no context of {shape.num_slots} slots of {shape.slot_len} tokens: {reason}. "
                "Where memory is short, give ENGINE__CONTEXTS fewer or shorter slots"
            )
        self._handle = handle
        kv = llama_cpp.llama_get_memory(handle)
        assert kv is not None
        self._kv = kv
        self._num_vocab = model.num_vocab
        self._state_len = llama_cpp.llama_model_n_embd(model.handle)
        self._magic: int | None = None
        self._scratch = scratch or Scratch()
        self.num_slots = shape.num_slots
        self.num_outputs = shape.num_slots + shape.num_drafts
        """Rows whose logits one `decode` gives at most."""
        self.slot_len = llama_cpp.llama_n_ctx_seq(handle)
        self.batch = Batch(shape.batch_len)

    def close(self) -> None:
        llama_cpp.llama_free(self._handle)

    def decode(self, num_rows: int) -> None:
        """Compute the first `num_rows` rows of `batch`. Releases the GIL.

        Raises LlamaError on any failure; the cells of the rows' slots are then undefined.
        """
        self.batch.struct.n_tokens = num_rows
        code = llama_cpp.llama_decode(self._handle, self.batch.struct)
        if code != 0:
            raise LlamaError(f"llama_decode of {num_rows} rows returned {code}: {_meaning(code)}")

    def logits(self, num_outputs: int) -> npt.NDArray[np.float32]:
        """Logits of the last decode, (num_outputs, vocabulary), in the order of the output rows.

        A view of llama.cpp's buffer: valid until the next decode, and writable.
        """
        pointer = llama_cpp.llama_get_logits(self._handle)
        return np.ctypeslib.as_array(pointer, shape=(num_outputs, self._num_vocab))

    def states(self, num_rows: int) -> npt.NDArray[np.float32]:
        """The last layer's states of the last decode, (num_rows, width), in the order of the rows.

        A view, as `logits` is.
        """
        pointer = llama_cpp.llama_get_embeddings(self._handle)
        return np.ctypeslib.as_array(pointer, shape=(num_rows, self._state_len))

    def truncate(self, slot: int, num_tokens: int) -> None:
        """Forget all of a slot but its first `num_tokens` tokens."""
        if not llama_cpp.llama_memory_seq_rm(self._kv, slot, num_tokens, -1):
            raise LlamaError(f"slot {slot} cannot be truncated to {num_tokens} tokens")

    def num_computed(self, slot: int) -> int:
        """How many tokens a slot holds, as llama.cpp sees it."""
        return llama_cpp.llama_memory_seq_pos_max(self._kv, slot) + 1

    def save(self, slot: int) -> Snapshot:
        """A copy of a slot's state, in canonical form."""
        return self._read_state(slot, np.empty(self._state_size(slot), np.uint8))

    def save_parts(self, slot: int, ranges: Sequence[tuple[int, int]]) -> list[Snapshot]:
        """Copies of a slot's tokens [start, end) for each range."""
        whole = self._read_state(slot, self._scratch.take(self._state_size(slot)))
        return [cut(whole, start, end) for start, end in ranges]

    def _state_size(self, slot: int) -> int:
        return llama_cpp.llama_state_seq_get_size(self._handle, llama_cpp.llama_seq_id(slot))

    def _read_state(self, slot: int, state: Bytes) -> Snapshot:
        """A slot's state, written to `state`, which the snapshot keeps."""
        written = llama_cpp.llama_state_seq_get_data(
            self._handle, _pointer(state), state.nbytes, llama_cpp.llama_seq_id(slot)
        )
        if written != state.nbytes:
            raise LlamaError(
                f"slot {slot} cannot be saved: {written} of {state.nbytes} bytes written"
            )
        self._magic = int.from_bytes(state[:4].tobytes(), "little")
        return canonical(state, slot=slot)

    def restore(self, slot: int, parts: Sequence[Snapshot], num_tokens: int) -> None:
        """Make a slot's state the first `num_tokens` tokens of `parts`.

        They follow each other from token 0 on, and any context of the model may have saved them.
        """
        self.truncate(slot, 0)
        if num_tokens == 0:
            return
        size = state_size(parts, num_tokens, num_streams=self.num_slots)
        buffer = self._scratch.take(size)
        magic = self._state_magic()
        write_state(parts, num_tokens, magic=magic, num_streams=self.num_slots, out=buffer)
        seq_id = llama_cpp.llama_seq_id(slot)
        if not llama_cpp.llama_state_seq_set_data(self._handle, _pointer(buffer), size, seq_id):
            raise LlamaError(f"a state of {num_tokens} tokens does not fit slot {slot}")

    def _state_magic(self) -> int:
        if self._magic is None:
            self.save(0)
        assert self._magic is not None
        return self._magic


def _parameters(model: LlamaModel, shape: ContextShape) -> llama_cpp.llama_context_params:
    params = llama_cpp.llama_context_default_params()
    slot_len = -(-shape.slot_len // CELL_ALIGNMENT) * CELL_ALIGNMENT
    params.n_ctx = slot_len * shape.num_slots
    params.n_seq_max = shape.num_slots
    params.n_outputs_max = (
        shape.batch_len if shape.gives_states else shape.num_slots + shape.num_drafts
    )
    params.embeddings = shape.gives_states
    params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
    params.n_batch = shape.batch_len
    params.n_ubatch = shape.batch_len
    if shape.flash_attention == "off":
        row_bytes = 4 * slot_len * llama_cpp.llama_model_n_head(model.handle)
        params.n_ubatch = min(shape.batch_len, max(MIN_PASS_LEN, MAX_SCORES_BYTES // row_bytes))
    params.n_threads = params.n_threads_batch = shape.threads
    params.type_k = params.type_v = _KV_TYPES[shape.kv_type]
    params.flash_attn_type = _FLASH_ATTENTION[shape.flash_attention]
    params.kv_unified = False
    if shape.rope_scaling > 1:
        params.rope_scaling_type = llama_cpp.LLAMA_ROPE_SCALING_TYPE_YARN
        params.rope_freq_scale = 1 / shape.rope_scaling
        params.yarn_orig_ctx = model.context_len
    return params


def _meaning(code: int) -> str:
    if code == 1:
        return "no free cells; a slot was filled beyond its length"
    if code == -1:
        return "the batch is not valid"
    return "the backend failed"


def _pointer(array: Bytes) -> "ctypes.Array[ctypes.c_uint8]":
    # llama_cpp's stubs call every pointer an array.
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))  # pyright: ignore[reportReturnType]
