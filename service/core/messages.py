"""What the API process and an engine worker say to each other; msgpack over ZeroMQ.

Commands go down one PUSH/PULL pair, reports come up another, each in order. A step is one report.
"""

import msgspec

from service.core.request import Constraint, FinishReason, ThinkingBudget
from service.core.sampling import SamplingParams, TokenLogprobs


class Submit(msgspec.Struct, frozen=True, kw_only=True, tag="submit"):
    """Run a request. `sequence_id` is the API process's name for it, unique in its lifetime."""

    sequence_id: int
    prompt: list[int]
    sampling: SamplingParams
    max_tokens: int | None
    tenant: str
    session: str | None
    """With `tenant` the key of a conversation; one worker serves one model."""
    share: str
    """The label that computed tokens are shared under: the tenant, unless all tenants share."""
    thinking: ThinkingBudget | None
    num_public: int = 0
    """Leading prompt tokens that the operator lets all tenants share."""
    priority: int = 0
    """Lower is served first."""
    num_logprobs: int | None = None
    constraint: Constraint | None = None
    prediction: list[int] | None = None
    """What the client thinks the output will be."""
    num_generated: int = 0
    """How many of the prompt's last tokens are output, which a worker that died had generated."""


class Abort(msgspec.Struct, frozen=True, kw_only=True, tag="abort"):
    """Forget a sequence or a text, whatever stage it is in; unknown ids are ignored."""

    sequence_id: int


class Forget(msgspec.Struct, frozen=True, kw_only=True, tag="forget"):
    """Free what a session computed, in every tier; answered with `Forgotten`, in order.

    A request of it that still runs is left alone, and what it leaves is freed as well. A later
    request of that name is a new session.
    """

    tenant: str
    session: str


class Embed(msgspec.Struct, frozen=True, kw_only=True, tag="embed"):
    """Make a vector of a text; `sequence_id` is of the same numbers as a request's."""

    sequence_id: int
    tokens: list[int]


class Shutdown(msgspec.Struct, frozen=True, kw_only=True, tag="shutdown"):
    """End the worker now."""


Command = Submit | Abort | Forget | Embed | Shutdown


class SequenceOutput(msgspec.Struct, frozen=True, array_like=True):
    """What one step gave one sequence."""

    sequence_id: int
    token_ids: list[int]
    """New tokens; the end-of-generation token is not among them."""
    finish_reason: FinishReason | None
    num_cached_tokens: int
    """Prompt tokens that were not computed, because the cache had them."""
    logprobs: list[TokenLogprobs | None] | None = None
    """One for each of `token_ids`, where asked for; None for a token that was not drawn."""
    num_accepted: int = 0
    """Tokens of the client's prediction that were computed ahead and proved right."""
    num_rejected: int = 0
    """Those that proved wrong."""


class ClassStats(msgspec.Struct, frozen=True, array_like=True):
    """One size class of slots after a step."""

    num_running: int
    """Slots that hold a running sequence."""
    num_cached: int
    """Idle slots that still hold a finished sequence's tokens."""
    num_running_tokens: int
    num_cached_tokens: int


class CacheStats(msgspec.Struct, frozen=True, array_like=True):
    """What the worker's cache did and holds; counters count from the worker's start.

    Sources are slot, shared, session, host and disk; tiers are slot, host and disk.
    """

    hits: dict[str, int]
    """Admissions that found tokens, by the source of their longest prefix."""
    hit_tokens: dict[str, int]
    """Prompt tokens that were not computed, by source."""
    evictions: dict[str, int]
    """Segments that gave way, by the tier they left."""
    bytes: dict[str, int]
    """Held now, by tier."""
    segments: dict[str, int]
    """Held now, by tier."""
    saves: int = 0
    """Slots copied to host memory."""
    restores: int = 0
    """Copies put back into slots."""
    save_seconds: float = 0.0
    restore_seconds: float = 0.0
    disk_reads: int = 0
    disk_writes: int = 0
    disk_read_seconds: float = 0.0
    disk_write_seconds: float = 0.0
    disk_errors: int = 0
    """Files that could not be written, or not be used."""


class StepStats(msgspec.Struct, frozen=True, array_like=True):
    """The worker's state after a step; counters count from the worker's start."""

    num_decode_tokens: int
    """Rows of this step that continue a running sequence by one token."""
    num_prefill_tokens: int
    """Rows of this step that compute prompt tokens."""
    num_passes: int
    """Forward passes (micro-batches) that the step took, as planned."""
    decode_seconds: float
    """Time inside llama.cpp."""
    step_seconds: float
    """The whole step, drain to apply."""
    num_waiting: int
    num_running: int
    num_preemptions: int
    classes: list[ClassStats]
    cache: CacheStats | None = None
    """None where nothing of it changed since the last report."""
    num_draft_tokens: int = 0
    """Rows of this step that compute guesses; not among the decode tokens."""
    num_accepted_tokens: int = 0
    """Guesses that were right."""


class DeviceMemory(msgspec.Struct, frozen=True, kw_only=True):
    """A device's memory, whoever uses it."""

    name: str
    """As ggml calls it: CUDA0."""
    free_bytes: int
    total_bytes: int


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The worker has loaded its model, opened its contexts and computed a first batch."""

    model_bytes: int
    kv_bytes: int
    compute_bytes: int
    extra_buffers: bool
    """Whether repacked weight copies (AMX and the like) are in use."""
    load_seconds: float
    cpu_variant: str = ""
    """Which of the build's variants of CPU code runs; for people."""
    can_copy: bool = True
    """Whether computed tokens can be moved between slots; if not, they are computed again."""
    gpus: tuple[DeviceMemory, ...] = ()
    """Those that the worker uses, after its first batch."""
    sessions: tuple[tuple[str, str, int], ...] = ()
    """(tenant, session, tokens) of those that it found on disk, least recently used first."""


class Forgotten(msgspec.Struct, frozen=True, kw_only=True, tag="forgotten"):
    """A session's tokens are freed, in every tier that this worker has."""

    tenant: str
    session: str
    num_tokens: int
    """Computed tokens that were freed; those that others share stay."""


class Embedded(msgspec.Struct, frozen=True, kw_only=True, tag="embedded"):
    """A chunk of a text is computed."""

    sequence_id: int
    vector: bytes | None
    """Of length 1, as little-endian float32; None while there are chunks left."""


class StepReport(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """All that a step (or a drained command) changed."""

    outputs: list[SequenceOutput]
    stats: StepStats


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The worker's last words: it could not start or go on."""

    message: str
    code: str


Report = Ready | StepReport | Forgotten | Embedded | Failed
