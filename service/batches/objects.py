"""Files and batches as they are kept. Times are whole seconds since the epoch."""

import secrets
from typing import Literal, get_args

import msgspec

Purpose = Literal["batch", "batch_output"]
Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
Ending = Literal["completed", "expired", "cancelled"]

STATUSES: tuple[Status, ...] = get_args(Status)
FINAL_STATUSES: frozenset[Status] = frozenset({"failed", "completed", "expired", "cancelled"})


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    tenant: str
    name: str
    """As the client calls it; never part of a path."""
    purpose: Purpose
    num_bytes: int
    created_at: int
    expires_at: int


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a batch failed before it began."""

    code: str
    message: str
    line: int | None = None
    """Counted from 1."""
    param: str | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    tenant: str
    endpoint: str
    input_file_id: str
    created_at: int
    expires_at: int
    metadata: dict[str, str] | None = None
    output_seconds: int | None = None
    """How long output files are kept; None is as long as any."""

    status: Status = "validating"
    ending: Ending | None = None
    """What it becomes when its files are written; set when the last line was decided."""
    moments: dict[Status, int] = {}
    """When each status began."""
    problems: tuple[Problem, ...] = ()
    model: str | None = None
    num_lines: int = 0
    num_completed: int = 0
    num_failed: int = 0
    usage: Usage = Usage()
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def is_over(self) -> bool:
        return self.status in FINAL_STATUSES

    def become(self, status: Status, now: int) -> "Batch":
        moments = {**self.moments, status: now}
        return msgspec.structs.replace(self, status=status, moments=moments)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A request of a batch that has no result yet, by its place in the input file."""

    number: int
    """Counted from 1, blank lines included."""
    custom_id: str
    offset: int
    length: int


def new_file_id() -> str:
    return f"file-{secrets.token_hex(12)}"


def new_batch_id() -> str:
    return f"batch_{secrets.token_hex(12)}"
