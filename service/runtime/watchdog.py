"""Notices that a busy worker has gone silent."""

import asyncio
from collections.abc import Callable

NUM_LOOKS = 4


class Watchdog:
    """Calls `on_hang` when a worker that has work says nothing for the limit, or a quarter more.

    It counts its own looks instead of the time between reports: when both processes were stopped
    and go on (a suspended machine, Ctrl-Z), much time has passed and the worker is well.
    """

    def __init__(self, limit_seconds: float, on_hang: Callable[[], None]) -> None:
        self._interval_seconds = limit_seconds / NUM_LOOKS
        self._on_hang = on_hang
        self._num_silent = 0
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """The worker has work from now on."""
        if self._timer is None:
            self._num_silent = 0
            # The first look ends an interval that is whole, so silence is never counted too long.
            self._arm()

    def hear(self) -> None:
        """The worker reported."""
        self._num_silent = 0

    def rest(self) -> None:
        """The worker has no work, or is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._interval_seconds, self._look)

    def _look(self) -> None:
        self._num_silent += 1
        if self._num_silent > NUM_LOOKS:
            self._timer = None
            self._on_hang()
        else:
            self._arm()
