"""What a worker's loop needs of an engine."""

from typing import Protocol

from service.core.messages import Ready
from service.core.plan import Plan, StepResult


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

    def warm_up(self) -> Ready:
        """Compute a first batch of every kind; what was loaded."""
        ...

    def execute(self, plan: Plan) -> StepResult:
        """Do the slot operations in order, then one decode per context, then the draws."""
        ...

    def close(self) -> None: ...
