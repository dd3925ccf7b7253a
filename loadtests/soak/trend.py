"""Whether a quantity grows, judged by medians: bursts and outliers do not count."""

import statistics
from collections.abc import Sequence

MIN_SAMPLES = 16
"""Below, a series says nothing of growth."""


def find_growth(values: Sequence[float]) -> float:
    """How far the median of the last quarter lies above that of the second.

    The first quarter is warming up. Between the two lies half of the time.
    """
    quarter = len(values) // 4
    early = statistics.median(values[quarter : 2 * quarter])
    late = statistics.median(values[-quarter:])
    return late - early


def split_lives(pids: Sequence[int], values: Sequence[float]) -> list[list[float]]:
    """The values of each process, in the order of the processes' beginnings."""
    lives: dict[int, list[float]] = {}
    for pid, value in zip(pids, values, strict=True):
        lives.setdefault(pid, []).append(value)
    return list(lives.values())
