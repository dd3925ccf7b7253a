"""How the workers share the GPUs."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.core.messages import DeviceMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuShare:
    """What each worker gets."""

    num_workers: int
    numbers: tuple[int, ...]
    """The GPUs in turn, one a worker; empty where one worker has them all."""
    free_bytes: int
    """Memory that each worker may count on."""


def share_gpus(gpus: Sequence[DeviceMemory], num_workers: int | None) -> GpuShare:
    """None is a worker for each GPU; llama.cpp splits a lone worker's layers over all of them."""
    num_workers = num_workers or len(gpus)
    if num_workers == 1:
        return GpuShare(num_workers=1, numbers=(), free_bytes=sum(gpu.free_bytes for gpu in gpus))
    most_on_one = -(-num_workers // len(gpus))
    return GpuShare(
        num_workers=num_workers,
        numbers=tuple(range(len(gpus))),
        free_bytes=min(gpu.free_bytes for gpu in gpus) // most_on_one,
    )
