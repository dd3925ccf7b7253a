"""What settings leave to the machine: threads and size classes that fit it, or our share of it."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import psutil

from service.cgroups import ROOT, read_allowance
from service.core.kv import KvType
from service.gguf.hyperparameters import Hyperparameters
from service.gguf.memory import kv_bytes_per_token
from service.kvcache.size_class import SizeClass

SMALL_SLOT_LEN = 2048
"""Holds most conversations; llama.cpp attends over a slot's used cells only."""

MAX_SMALL_SLOTS = 8
"""A batch that a CPU serves well; each slot's cells are zeroed at start, which takes time."""

MAX_SMALL_SLOTS_ON_GPU = 32
"""A GPU decodes that many for little more than one."""

_USABLE_SHARE = 0.6
"""Of the free memory: others live on the machine, and snapshots want room."""


def count_threads(root: Path = ROOT) -> int:
    """Cores that this process may use, and whole ones: threads that wait for each other spin.

    A thread too many stops the others until it gets its turn, under a quota until the next period.
    """
    num_cores = count_physical_cores(os.sched_getaffinity(0), root)
    quota = read_allowance(root).num_cpus
    return num_cores if quota is None else max(1, min(num_cores, int(quota)))


def count_physical_cores(cpus: Iterable[int], root: Path = ROOT) -> int:
    """Those of `cpus`: two threads of one core share what a matrix product needs."""
    topology = (root / f"sys/devices/system/cpu/cpu{cpu}/topology" for cpu in cpus)
    return len({_read_siblings(folder) for folder in topology})


def _read_siblings(topology: Path) -> str:
    """The CPUs of a core; where the kernel does not tell, each is its own."""
    for name in ("core_cpus_list", "thread_siblings_list"):  # the second is the older one
        with contextlib.suppress(OSError):
            return (topology / name).read_text()
    return str(topology)


def available_bytes(root: Path = ROOT) -> int:
    """Main memory that could be had without swapping, and without meeting a container's limit."""
    on_machine = psutil.virtual_memory().available
    allowed = read_allowance(root).free_bytes
    return on_machine if allowed is None else min(on_machine, allowed)


def affords_copy(
    shape: Hyperparameters, *, weight_bytes: int, free_bytes: int, kv_type: KvType
) -> bool:
    """Whether weights and a repacked copy of them leave room for all the small slots."""
    kv_bytes = MAX_SMALL_SLOTS * SMALL_SLOT_LEN * kv_bytes_per_token(shape, kv_type)
    return 2 * weight_bytes + kv_bytes <= free_bytes * _USABLE_SHARE


def fit_size_classes(
    shape: Hyperparameters,
    *,
    weight_bytes: int,
    free_bytes: int,
    kv_type: KvType,
    max_small_slots: int = MAX_SMALL_SLOTS,
) -> tuple[SizeClass, ...]:
    """Small slots for at most half of the memory, and one as long as the model and the rest allow.

    `weight_bytes` includes a repacked copy, if there is one. There is always a slot.
    """
    per_token = kv_bytes_per_token(shape, kv_type)
    num_cells = max(0, int(free_bytes * _USABLE_SHARE) - weight_bytes) // per_token
    small_len = min(SMALL_SLOT_LEN, shape.context_len)
    num_small_cells = min(max_small_slots * small_len, num_cells // 2)
    large_len = _longest(small_len, num_cells - num_small_cells, shape.context_len)
    if large_len == small_len:
        num_small = min(max_small_slots, num_cells // small_len)
        return (SizeClass(slot_len=small_len, num_slots=max(1, num_small)),)
    num_small = min(max_small_slots, (num_cells - large_len) // small_len)
    return (
        SizeClass(slot_len=small_len, num_slots=num_small),
        SizeClass(slot_len=large_len, num_slots=1),
    )


def _longest(start: int, limit: int, context_len: int) -> int:
    """The whole context where it fits, else `start` doubled as often as it may be."""
    if start <= context_len <= limit:
        return context_len
    length = start
    while length * 2 <= min(limit, context_len):
        length *= 2
    return length
