"""What it costs that running slots do not stand together. Slots are given by rising index."""

import bisect
import itertools
from collections.abc import Sequence

from service.kvcache.costs import Costs


def bridging(running: Sequence[int], costs: Costs) -> float:
    """Seconds that the gaps between running slots add to each step."""
    return sum(costs.bridge(b - a - 1) for a, b in itertools.pairwise(running))


def added_bridging(running: Sequence[int], index: int, costs: Costs) -> float:
    """What running in one more slot adds to it; less than nothing where it fills a gap."""
    place = bisect.bisect(running, index)
    added = 0.0
    if place > 0:
        added += costs.bridge(index - running[place - 1] - 1)
    if place < len(running):
        added += costs.bridge(running[place] - index - 1)
    if 0 < place < len(running):
        added -= costs.bridge(running[place] - running[place - 1] - 1)
    return added


def find_holes(running: Sequence[int]) -> list[int]:
    """Idle slots between running ones."""
    if not running:
        return []
    taken = set(running)
    return [index for index in range(running[0], running[-1]) if index not in taken]
