"""What a worker does in one step: a plan, made by the scheduler and carried out to the letter.

A context is one size class of slots; `class_index` names both.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from service.core.request import Constraint
from service.core.sampling import SamplingParams, TokenLogprobs

if TYPE_CHECKING:
    Tokens = array[int]
else:
    Tokens = array  # subscriptable from Python 3.12 on
"""Token ids, typecode "i": compact, comparable in C, and numpy reads it in place."""


def make_tokens(values: list[int] | Tokens | None = None) -> Tokens:
    return array("i", values or ())


@dataclass(frozen=True, slots=True)
class Cut:
    """The cells of tokens `start` to `end` become segment `segment_id`."""

    start: int
    end: int
    segment_id: int


@dataclass(frozen=True, slots=True)
class Save:
    """Copy cells of a slot to host memory, as new segments."""

    class_index: int
    slot: int
    cuts: tuple[Cut, ...]


@dataclass(frozen=True, slots=True)
class Restore:
    """Make a slot hold the first `num_tokens` tokens of segments that follow each other."""

    class_index: int
    slot: int
    segment_ids: tuple[int, ...]
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """Make a slot forget all but its first `num_tokens` tokens."""

    class_index: int
    slot: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Split:
    """Make two segments of one: its first `num_tokens` tokens and the rest."""

    segment_id: int
    num_tokens: int
    head_id: int
    tail_id: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Free a segment."""

    segment_id: int


@dataclass(frozen=True, slots=True)
class Archive:
    """Begin to write a segment to disk; the plan of a later step learns that it is there."""

    segment_id: int
    file_id: int
    origin: "Origin"


@dataclass(frozen=True, slots=True)
class Load:
    """Begin to read a file into a new segment."""

    file_id: int
    segment_id: int


@dataclass(frozen=True, slots=True)
class Erase:
    """Remove a file."""

    file_id: int


@dataclass(frozen=True, slots=True)
class Origin:
    """What a segment's tokens are: those from `start` on of a run, and who shares them."""

    label: str
    num_public: int
    tokens: Tokens
    """From the first of the run to the last of the segment."""
    start: int
    sessions: tuple[tuple[str, str], ...]
    """(tenant, session) of those whose run ends with the segment."""


SlotOperation = Save | Restore | Truncate | Split | Drop | Archive | Load | Erase


@dataclass(frozen=True, slots=True)
class Draw:
    """How a sequence's tokens are drawn; one object for the sequence's whole life.

    `tokens` is the sequence's own growing array, so that penalties see its history. Nobody but the
    scheduler's `apply` changes it.
    """

    params: SamplingParams
    tokens: Tokens
    num_prompt_tokens: int
    num_logprobs: int | None = None
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Compute `tokens[start:end]` of a sequence in its slot; then draw a token, or not.

    Where a token is drawn, `drafts` may guess it and what follows. They are computed in the same
    pass, each where it would stand, and those that turn out wrong leave nothing in the slot.
    """

    slot: int
    tokens: Tokens
    start: int
    end: int
    draw: Draw | None
    drafts: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        return self.end - self.start

    @property
    def num_rows(self) -> int:
        return self.end - self.start + len(self.drafts)


@dataclass(frozen=True, slots=True)
class Filler:
    """A junk row in an idle slot, so that the slots around it stay in one pass; removed after."""

    slot: int
    position: int


@dataclass(frozen=True, slots=True)
class ContextPlan:
    """One decode call: chunks in ascending order of slot."""

    class_index: int
    chunks: list[Chunk]
    fillers: list[Filler]


@dataclass(frozen=True, slots=True)
class Plan:
    """Slot operations in order, then one decode per context."""

    operations: list[SlotOperation] = field(default_factory=list[SlotOperation])
    contexts: list[ContextPlan] = field(default_factory=list[ContextPlan])

    def chunks(self) -> Iterator[Chunk]:
        for context in self.contexts:
            yield from context.chunks


@dataclass(frozen=True, slots=True)
class CopyTime:
    """What a Save or a Restore took."""

    kind: Literal["save", "restore"]
    num_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StepResult:
    """`tokens[i]` was drawn for the plan's i-th chunk that asks for a draw."""

    tokens: list[int]
    decode_seconds: float
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict[int, TokenLogprobs])
    """By index in `tokens`, for the draws that ask for them."""
    copies: list[CopyTime] = field(default_factory=list[CopyTime])
    ended: frozenset[int] = frozenset()
    """Indices in `tokens` of those that complete what a constraint asks for."""
    followers: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    """By index in `tokens`: what was drawn behind it, one token for each draft that was right."""
