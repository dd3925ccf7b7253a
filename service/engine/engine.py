"""What a worker's loop needs of an engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from service.core.messages import Ready
from service.core.plan import Archive, Erase, Load, Origin, Plan, StepResult, Tokens
from service.core.request import Constraint
from service.engine.snapshot_file import Bytes
from service.kvcache.costs import Costs


class Files(Protocol):
    """The disk tier, as engines see it: everything is begun here and done elsewhere."""

    def write(self, file_id: int, origin: Origin, payload: list[Bytes]) -> None: ...
    def read(self, file_id: int, segment_id: int) -> None: ...
    def erase(self, file_id: int) -> None: ...


def transfer(
    files: Files | None,
    operation: Archive | Load | Erase,
    read_segment: Callable[[int], list[Bytes]],
) -> None:
    """Begin what a plan asks of the disk tier."""
    assert files is not None, "the store plans with a disk that is not there"
    match operation:
        case Archive(segment_id, file_id, origin):
            files.write(file_id, origin, read_segment(segment_id))
        case Load(file_id, segment_id):
            files.read(file_id, segment_id)
        case Erase(file_id):
            files.erase(file_id)


class Engine(Protocol):
    """Carries plans out to the letter. `LlamaEngine` computes; `SimulatedEngine` pretends."""

    @property
    def eog_tokens(self) -> frozenset[int]:
        """Tokens that end a generation."""
        ...

    @property
    def bytes_per_token(self) -> int:
        """KV bytes of one token, in a slot or in a snapshot."""
        ...

    @property
    def can_copy(self) -> bool:
        """Whether snapshots proved to fit every slot; known after `warm_up`."""
        ...

    @property
    def costs(self) -> Costs:
        """What was measured in `warm_up`."""
        ...

    def fingerprint(self, hashes: Path) -> str:
        """A name for all that a segment depends on; `hashes` may remember digests of files."""
        ...

    def use_files(self, files: Files) -> None:
        """Where plans write segments to, and read them from."""
        ...

    def warm_up(self) -> Ready:
        """Compute a first batch of every kind; what was loaded."""
        ...

    def prepare(self, constraint: Constraint, on_ready: Callable[[], None]) -> bool:
        """Whether sequences with it can run now; if not, `on_ready` is called, by any thread."""
        ...

    def execute(self, plan: Plan) -> StepResult:
        """Do the slot operations in order, then one decode per context, then the draws."""
        ...

    def embed(self, tokens: Tokens, start: int, end: int) -> npt.NDArray[np.float64]:
        """The sum of the last layer's states of `tokens[start:end]`.

        Called for one text after the other, each from its first token to its last. Touches no slot.
        """
        ...

    def take_in(self, segment_id: int, payload: memoryview) -> None:
        """Keep a segment that was read from disk. Raises LlamaError if it is not one."""
        ...

    def close(self) -> None: ...
