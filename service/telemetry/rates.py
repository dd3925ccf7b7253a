"""Tokens per second over the last few seconds, counted when they happen and divided when asked."""

from collections import deque


class RateWindow:
    """Counts per whole second of the caller's clock; adding is a comparison and an addition."""

    def __init__(self, window_seconds: int) -> None:
        self._window_seconds = window_seconds
        self._counts: deque[list[int]] = deque([[0, 0]], maxlen=window_seconds + 1)

    def add(self, count: int, now: float) -> None:
        second = int(now)
        last = self._counts[-1]
        if last[0] == second:
            last[1] += count
        else:
            self._counts.append([second, count])

    def rate(self, now: float) -> float:
        """Mean over the whole seconds before this one; the one that still runs would read low."""
        current = int(now)
        oldest = current - self._window_seconds
        total = sum(count for second, count in self._counts if oldest <= second < current)
        return total / self._window_seconds
