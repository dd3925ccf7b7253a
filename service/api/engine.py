"""What the API needs of the engine's side; `service.runtime.pool.EnginePool` is it."""

from collections.abc import Sequence
from typing import Protocol

from service.core.request import GenerationRequest
from service.runtime.sessions import SessionRegistry
from service.runtime.stream import OutputStream


class Engine(Protocol):
    @property
    def is_ready(self) -> bool: ...
    @property
    def max_context_len(self) -> int:
        """Tokens of the largest slot: prompt and output."""
        ...

    @property
    def embedding_len(self) -> int:
        """Tokens that a text for `embed` may have; 0 where none is taken."""
        ...

    @property
    def sessions(self) -> SessionRegistry:
        """For looking; requests and `forget_session` change it."""
        ...

    async def forget_session(self, tenant: str, session: str) -> int | None:
        """Free what a session computed: how many tokens, None if nothing is known of it.

        Raises EngineUnavailable when a worker cannot say that it has forgotten.
        """
        ...

    def check_room(self, num_requests: int) -> None:
        """Whether so many may be submitted now. Raises QueueFull or EngineUnavailable."""
        ...

    def submit(self, request: GenerationRequest) -> OutputStream:
        """Raises QueueFull or EngineUnavailable."""
        ...

    async def embed(self, texts: Sequence[list[int]]) -> list[bytes]:
        """A vector of length 1 for each text, as little-endian float32.

        Cancelled, it leaves nothing behind. Raises QueueFull or EngineError.
        """
        ...
