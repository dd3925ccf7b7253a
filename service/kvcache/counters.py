"""What the cache has done so far; counts from the worker's start."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from service.core.plan import CopyTime

Source = Literal["slot", "session", "shared", "host", "disk"]
"""Where reused tokens were: an idle slot, one that the same session left, a running sequence, host
memory, or host memory that was loaded from disk for it."""
Tier = Literal["slot", "host", "disk"]


@dataclass(slots=True)
class CacheCounters:
    hits: Counter[str] = field(default_factory=Counter[str])
    hit_tokens: Counter[str] = field(default_factory=Counter[str])
    evictions: Counter[str] = field(default_factory=Counter[str])
    saves: int = 0
    restores: int = 0
    save_seconds: float = 0.0
    restore_seconds: float = 0.0
    disk_reads: int = 0
    disk_writes: int = 0
    disk_read_seconds: float = 0.0
    disk_write_seconds: float = 0.0
    disk_errors: int = 0

    def hit(self, source: Source, num_tokens: int) -> None:
        self.hits[source] += 1
        self.hit_tokens[source] += num_tokens

    def note_copy(self, copy: CopyTime) -> None:
        if copy.kind == "save":
            self.saves += 1
            self.save_seconds += copy.seconds
        else:
            self.restores += 1
            self.restore_seconds += copy.seconds

    def evict(self, tier: Tier) -> None:
        self.evictions[tier] += 1
