"""How many workers there are, and how many requests may wait for them."""

from dataclasses import dataclass

from service.engine.config import EngineConfig
from service.runtime.sessions import DEFAULT_MAX_SESSIONS, DEFAULT_TTL_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """Every worker runs the same engine; with `gpus`, each on its own."""

    engine: EngineConfig
    num_workers: int = 1
    max_queued: int = 1024
    """Requests beyond the slots of all workers that may wait; one more is refused."""
    watchdog_seconds: float = 30.0
    """A worker that has work and says nothing for so long is killed."""
    max_sessions: int = DEFAULT_MAX_SESSIONS
    session_ttl_seconds: float = DEFAULT_TTL_SECONDS
    gpus: tuple[int, ...] = ()
    """Device numbers, one a worker; empty leaves the choice to llama.cpp."""
