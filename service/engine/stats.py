"""What a worker's slots and cache hold and did, for its reports."""

from service.core.messages import CacheStats, ClassStats
from service.kvcache.allocator import Slot, SlotAllocator


def describe_classes(allocator: SlotAllocator) -> list[ClassStats]:
    return [_describe_class(slots) for slots in allocator.classes]


def describe_cache(allocator: SlotAllocator, bytes_per_token: int) -> CacheStats:
    store, counters = allocator.store, allocator.store.counters
    held = [slot.num_held for slots in allocator.classes for slot in slots if slot.num_held]
    return CacheStats(
        hits=dict(counters.hits),
        hit_tokens=dict(counters.hit_tokens),
        evictions=dict(counters.evictions),
        bytes={
            "slot": sum(held) * bytes_per_token,
            "host": store.host_bytes,
            "disk": store.disk_bytes,
        },
        segments={"slot": len(held), "host": store.num_segments, "disk": store.num_files},
        saves=counters.saves,
        restores=counters.restores,
        save_seconds=counters.save_seconds,
        restore_seconds=counters.restore_seconds,
        disk_reads=counters.disk_reads,
        disk_writes=counters.disk_writes,
        disk_read_seconds=counters.disk_read_seconds,
        disk_write_seconds=counters.disk_write_seconds,
        disk_errors=counters.disk_errors,
    )


def _describe_class(slots: list[Slot]) -> ClassStats:
    num_running = num_cached = running_tokens = cached_tokens = 0
    for slot in slots:
        if slot.owner is not None:
            num_running += 1
            running_tokens += slot.num_held
        elif slot.num_held:
            num_cached += 1
            cached_tokens += slot.num_held
    return ClassStats(num_running, num_cached, running_tokens, cached_tokens)
