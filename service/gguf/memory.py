"""What serving a file will take, before any of it is loaded."""

from dataclasses import dataclass

from service.core.kv import CELL_ALIGNMENT, KvType
from service.gguf.header import pad
from service.gguf.hyperparameters import Hyperparameters

_BITS_PER_ELEMENT: dict[KvType, float] = {
    "f32": 32,
    "f16": 16,
    "bf16": 16,
    "q8_0": 8.5,
    "q4_0": 4.5,
}

BATCH_LEN = 512
"""Rows of one forward pass, llama.cpp's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    num_slots: int
    slot_len: int
    kv_type: KvType
    weight_bytes: int
    """Memory-mapped, so shared by workers; repacked copies (AMX) come on top where used."""
    kv_bytes: int
    compute_bytes: int
    """Activations and logits; an estimate, for passes of `BATCH_LEN` rows."""

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.compute_bytes


def kv_bytes_per_token(shape: Hyperparameters, kv_type: KvType) -> int:
    elements = 2 * shape.num_layers * shape.num_kv_heads * shape.head_len
    return int(elements * _BITS_PER_ELEMENT[kv_type] / 8)


def estimate_memory(
    shape: Hyperparameters, *, weight_bytes: int, num_slots: int, slot_len: int, kv_type: KvType
) -> MemoryEstimate:
    cells = num_slots * pad(slot_len, CELL_ALIGNMENT)
    return MemoryEstimate(
        num_slots=num_slots,
        slot_len=slot_len,
        kv_type=kv_type,
        weight_bytes=weight_bytes,
        kv_bytes=cells * kv_bytes_per_token(shape, kv_type),
        compute_bytes=_compute_bytes(shape, num_slots=num_slots, slot_len=slot_len),
    )


def _compute_bytes(shape: Hyperparameters, *, num_slots: int, slot_len: int) -> int:
    """Three rows of each width live at once in the feed-forward; then logits, twice, and the mask.

    Within 4 % of what llama.cpp allocates for SmolLM3-3B and SmolLM2-135M.
    """
    rows = BATCH_LEN * 3 * (shape.ffn_len + shape.hidden_len)
    logits = 2 * num_slots * shape.vocab_len
    mask = BATCH_LEN * pad(slot_len, CELL_ALIGNMENT)
    return 4 * (rows + logits) + 2 * mask
