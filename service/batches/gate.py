"""How many lines may run beside everybody else's requests."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from service.core.request import LAST_PRIORITY

PRIORITY = LAST_PRIORITY
"""Of lines, in the engine's queue: everyone else comes first."""
_LOOK_SECONDS = 0.1
"""Nobody announces that a slot became idle because someone else's request ended."""


class Capacity(Protocol):
    """`service.runtime.pool.EnginePool` is it."""

    @property
    def is_ready(self) -> bool: ...
    @property
    def num_slots(self) -> int: ...
    def count_before(self, priority: int) -> int:
        """Requests, running and waiting, that are served before one of this priority."""
        ...


class Gate:
    """Lets lines through while slots are idle; those who ask take turns."""

    def __init__(
        self,
        capacity: Capacity,
        *,
        max_in_flight: int | None,
        is_closed: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        """`clock` is monotonic. `is_closed` is true for ever once it is."""
        self._capacity = capacity
        self._max_in_flight = max_in_flight
        self._is_closed = is_closed
        self._clock = clock
        self._paused_until = 0.0
        self._turn = asyncio.Lock()
        self._left = asyncio.Event()
        self.num_in_flight = 0

    async def enter(self) -> None:
        """Waits for room, as long as that takes. Who enters leaves."""
        async with self._turn:
            while not self._has_room():
                self._left.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._left.wait(), _LOOK_SECONDS)
            self.num_in_flight += 1

    def leave(self) -> None:
        self.num_in_flight -= 1
        self._left.set()

    def pause(self, seconds: float) -> None:
        """The engine refused one; nobody enters for a while."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _has_room(self) -> bool:
        if self._is_closed() or not self._capacity.is_ready or self._clock() < self._paused_until:
            return False
        return self.num_in_flight < self._limit()

    def _limit(self) -> int:
        """Slots that nobody but lines wants."""
        idle = self._capacity.num_slots - self._capacity.count_before(PRIORITY)
        return idle if self._max_in_flight is None else min(idle, self._max_in_flight)
