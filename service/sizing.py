"""What settings leave to the machine: threads and size classes that fit it."""

import psutil

from service.gguf.hyperparameters import Hyperparameters
from service.gguf.memory import KvType, kv_bytes_per_token
from service.kvcache.size_class import SizeClass

SMALL_SLOT_LEN = 2048
"""Holds most conversations; llama.cpp attends over a slot's used cells only."""

MAX_SMALL_SLOTS = 8
"""A batch that a CPU serves well; each slot's cells are zeroed at start, which takes time."""

_USABLE_SHARE = 0.6
"""Of the free memory: others live on the machine, and snapshots want room."""


def count_physical_cores() -> int:
    """Two threads of one core share what a matrix product needs."""
    return psutil.cpu_count(logical=False) or psutil.cpu_count() or 1


def available_bytes() -> int:
    """Main memory that could be had without swapping."""
    return psutil.virtual_memory().available


def fit_size_classes(
    shape: Hyperparameters, *, weight_bytes: int, free_bytes: int, kv_type: KvType
) -> tuple[SizeClass, ...]:
    """Small slots for at most half of the memory, and one as long as the model and the rest allow.

    Weights count twice, because a CPU may keep a repacked copy of them. There is always a slot.
    """
    per_token = kv_bytes_per_token(shape, kv_type)
    num_cells = max(0, int(free_bytes * _USABLE_SHARE) - 2 * weight_bytes) // per_token
    small_len = min(SMALL_SLOT_LEN, shape.context_len)
    large_len = small_len
    while large_len * 2 <= min(shape.context_len, num_cells // 2):
        large_len *= 2
    if large_len == small_len:
        num_small = min(MAX_SMALL_SLOTS, num_cells // small_len)
        return (SizeClass(slot_len=small_len, num_slots=max(1, num_small)),)
    num_small = min(MAX_SMALL_SLOTS, (num_cells - large_len) // small_len)
    return (
        SizeClass(slot_len=small_len, num_slots=num_small),
        SizeClass(slot_len=large_len, num_slots=1),
    )
