"""What a worker is started with; JSON on its command line."""

from typing import Literal

import msgspec

from service.scheduler.config import SchedulerConfig

KvType = Literal["f16", "q8_0", "q4_0", "f32", "bf16"]
FlashAttention = Literal["auto", "on", "off"]


class SimulatedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that costs time instead of computing; for tests and for measuring everything else.

    A step lasts `step_seconds + rows * row_seconds`.
    """

    num_vocab: int = 49152
    eog_tokens: tuple[int, ...] = (2,)
    step_seconds: float = 0.0
    row_seconds: float = 0.0
    bytes_per_token: int = 1024
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
    """Budget for snapshots of slots in host memory."""
    simulate: SimulatedModel | None = None
    scheduler: SchedulerConfig = SchedulerConfig()


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """An engine and the sockets it talks over."""

    engine: EngineConfig
    commands_address: str
    reports_address: str
