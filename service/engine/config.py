"""What a worker is started with; JSON on its command line."""

from typing import Literal

import msgspec

from service.core.kv import FlashAttention, KvType
from service.scheduler.config import SchedulerConfig
from service.telemetry.logs import LogFormat

_EXACT: frozenset[KvType] = frozenset({"f32", "f16", "bf16"})
"""Quantised values need fused attention."""


class SimulatedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that costs time instead of computing; for tests and for measuring everything else.

    A step lasts `step_seconds + rows * row_seconds`.
    """

    num_vocab: int = 49152
    eog_tokens: tuple[int, ...] = (2,)
    step_seconds: float = 0.0
    row_seconds: float = 0.0
    bytes_per_token: int = 1024
    vector_len: int = 8
    """Numbers of an embedding."""
    deadly_token: int | None = None
    """Computing it ends the worker, as a bad kernel would."""
    dies_in_warm_up: Literal["never", "with_extra_buffers", "always"] = "never"
    """Ends itself as a bad kernel would, with SIGSEGV."""


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One model and its pool of contexts."""

    model_path: str
    contexts: str
    """Size classes, as in `8x2048,1x8192`."""
    threads: int
    gpu_layers: int = 0
    gpu: int | None = None
    """The one device to use; None leaves the choice to llama.cpp."""
    kv_type: KvType = "f16"
    flash_attention: FlashAttention = "auto"
    rope_scaling: float = 1.0
    extra_buffers: bool = True
    """Whether llama.cpp may repack weights (AMX and the like); off in safe mode."""
    host_cache_bytes: int = 1 << 30
    """Budget for computed tokens in host memory."""
    disk_cache_bytes: int = 0
    """Budget for computed tokens on disk; 0 keeps none there."""
    disk_cache_dir: str = ""
    """The worker's own folder for them."""
    cache_ttl_seconds: float = 86400.0
    """How long computed tokens that nobody uses are kept, in host memory and on disk."""
    embedding_len: int = 0
    """Tokens of the longest text that is made a vector of; 0 makes none."""
    log_level: str = "info"
    log_format: LogFormat = "auto"
    log_prompts: bool = False
    """Whether log lines may quote prompts and answers."""
    simulate: SimulatedModel | None = None
    scheduler: SchedulerConfig = SchedulerConfig()

    @property
    def chosen_flash_attention(self) -> FlashAttention:
        """What `auto` means here: off on a CPU, unless the KV type needs it.

        llama.cpp's fused attention is slow on CPUs: 2 to 3 times the time of a decode step over
        some hundreds of cells, 10 times that of a small prompt chunk (docs/performance.md). One
        choice holds for all contexts, since snapshots do not fit across it.
        """
        if self.flash_attention == "auto" and self.gpu_layers == 0 and self.kv_type in _EXACT:
            return "off"
        return self.flash_attention


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """An engine and what it shares with the API process."""

    engine: EngineConfig
    commands_address: str
    reports_address: str
    roster_descriptor: int
    """The shared memory of `service.engine.roster`, inherited."""
