"""What is shown of a service: plain figures, the same for people and scripts."""

import msgspec


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, of what was observed since the last look; None where nothing was."""

    name: str
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class SizeClass(msgspec.Struct, frozen=True, kw_only=True):
    """Slots of one length, and the KV cells in them, of all workers."""

    slot_len: int
    num_running: int
    num_cached: int
    num_free: int
    running_cells: int
    cached_cells: int
    num_cells: int

    @property
    def num_slots(self) -> int:
        return self.num_running + self.num_cached + self.num_free


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    number: str
    is_up: bool
    num_running: int
    num_waiting: int
    occupancy: float
    """Running sequences per slot."""
    resident_bytes: int
    num_preemptions: int
    num_restarts: int
    num_hangs: int


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """Where computed tokens are kept."""

    name: str
    num_bytes: int
    num_segments: int
    num_evictions: int


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What happened each second since the last look."""

    generated_tokens: float
    prompt_tokens: float
    requests: float
    finished: float
    aborted: float
    embedding_tokens: float
    cached_ratio: float | None
    """Share of the prompts' tokens that the cache had; None without prompts."""
    cached_sources: dict[str, float]
    """Tokens that were not computed, by where they were found."""


class Incidents(msgspec.Struct, frozen=True, kw_only=True):
    """Counts, since the service's start or since the last look."""

    restarts: int
    hangs: int
    resubmissions: int
    quarantines: int
    errors: int
    disk_errors: int
    rejections: dict[str, int]
    """By the error's code."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    interval_seconds: float | None
    """Since the last look; None at the first one, when there are no rates."""
    num_slots: int
    num_running: int
    num_waiting: int
    num_sessions: int
    rates: Rates | None
    latencies: list[Latency]
    size_classes: list[SizeClass]
    workers: list[Worker]
    tiers: list[Tier]
    memory_bytes: dict[str, int]
    """By what it is for."""
    process_bytes: dict[str, int]
    vram_bytes: dict[str, int]
    """By state; empty without a GPU."""
    total: Incidents
    fresh: Incidents | None
    """Those since the last look."""
