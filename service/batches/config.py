"""Where files and batches are kept, and how large they may be."""

from dataclasses import dataclass
from pathlib import Path

_DAY_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchesConfig:
    directory: Path
    """Belongs to one process at a time."""
    max_file_bytes: int = 200 * 1024**2
    max_tenant_bytes: int = 10 * 1024**3
    """All files of a tenant; uploads that would go over it are refused, outputs are not."""
    retention_seconds: int = 30 * _DAY_SECONDS
    """Of files whose owner says nothing about it."""
    max_lines: int = 50_000
    max_body_bytes: int = 4 * 1024**2
    """Of one line's request."""
    max_active: int = 20
    """A tenant's batches that are not over."""
    max_in_flight: int | None = None
    """Lines at a time; None is as many as slots are idle."""
    window_seconds: int = _DAY_SECONDS
    """What a batch may take."""
