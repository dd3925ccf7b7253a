"""What the API is told at start."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    api_keys: tuple[str, ...] = ()
    """Empty leaves the service open."""
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 4 * 1024 * 1024
    client_timeout_seconds: float = 30.0
    """How long a client may send nothing of a body that it owes."""
    keepalive_seconds: float = 5.0
    """Silence on a stream before a comment breaks it."""
