"""Ends the service politely: nobody new, the running finish, the last are told."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager

from service.errors import EngineUnavailable, SmolserveError

Interrupt = Callable[[SmolserveError], None]


class Drain:
    """Owns the list of running exchanges of this process."""

    def __init__(self) -> None:
        self.has_begun = False
        self._running: set[Interrupt] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        self.has_begun = True

    def check(self) -> None:
        """Raises EngineUnavailable when nobody new may come."""
        if self.has_begun:
            raise EngineUnavailable("The service is shutting down; send the request again later.")

    @contextmanager
    def running(self, interrupt: Interrupt) -> Generator[None]:
        """Holds the service open; `interrupt` is called when it may be held no longer."""
        self.check()
        self._running.add(interrupt)
        self._idle.clear()
        try:
            yield
        finally:
            self._running.discard(interrupt)
            if not self._running:
                self._idle.set()

    async def wait_idle(self) -> None:
        await self._idle.wait()

    def interrupt_all(self) -> int:
        """Number of exchanges that were told to end."""
        error = EngineUnavailable("The service is shutting down and could not wait any longer.")
        for interrupt in tuple(self._running):
            interrupt(error)
        return len(self._running)
