"""Sequences that wait for a running one to compute the prefix they share with it."""

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from service.scheduler.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Follower:
    """Waits until its provider has computed `num_tokens`; then it returns to its class's queue."""

    sequence: Sequence
    class_index: int
    provider: Sequence
    num_tokens: int

    @property
    def is_served(self) -> bool:
        """Whether the prefix is there, or will never be because the provider has left its slot."""
        return self.provider.slot is None or self.provider.num_computed >= self.num_tokens


Line = list[tuple[int, int, Follower]]
"""Who follows one provider: a heap by the tokens that they need, then by the order they came in."""


class Followers:
    """A step looks at one follower of each provider, however many there are."""

    def __init__(self) -> None:
        self._followers: dict[int, Follower] = {}
        self._lines: dict[int, Line] = {}
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._followers)

    def __iter__(self) -> Iterator[Sequence]:
        return (follower.sequence for follower in self._followers.values())

    def add(self, follower: Follower) -> None:
        self._followers[follower.sequence.id] = follower
        line = self._lines.setdefault(follower.provider.id, [])
        heapq.heappush(line, (follower.num_tokens, next(self._order), follower))

    def remove(self, sequence_id: int) -> Sequence | None:
        """Forget a sequence; it, if it was waiting here."""
        follower = self._followers.pop(sequence_id, None)
        return None if follower is None else follower.sequence

    def take_served(self) -> list[Follower]:
        """Those that need wait no longer, latest first."""
        served: list[tuple[int, Follower]] = []
        for provider_id, line in list(self._lines.items()):
            while line and self._is_due(line[0][2]):
                _, order, follower = heapq.heappop(line)
                if self._followers.get(follower.sequence.id) is follower:
                    del self._followers[follower.sequence.id]
                    served.append((order, follower))
            if not line:
                del self._lines[provider_id]
        served.sort(key=_order_of, reverse=True)
        return [follower for _, follower in served]

    def _is_due(self, follower: Follower) -> bool:
        """Served, or forgotten."""
        is_here = self._followers.get(follower.sequence.id) is follower
        return follower.is_served or not is_here


def _order_of(entry: tuple[int, Follower]) -> int:
    return entry[0]
