"""Sequences that wait for a running one to compute the prefix they share with it."""

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


class Followers:
    """In the order they began to wait."""

    def __init__(self) -> None:
        self._followers: dict[int, Follower] = {}

    def __len__(self) -> int:
        return len(self._followers)

    def __iter__(self) -> Iterator[Sequence]:
        return (follower.sequence for follower in self._followers.values())

    def add(self, follower: Follower) -> None:
        self._followers[follower.sequence.id] = follower

    def remove(self, sequence_id: int) -> bool:
        """Forget a sequence; whether it was waiting here."""
        return self._followers.pop(sequence_id, None) is not None

    def take_served(self) -> list[Follower]:
        """Those that need wait no longer, latest first."""
        served = [follower for follower in self._followers.values() if follower.is_served]
        for follower in served:
            del self._followers[follower.sequence.id]
        served.reverse()
        return served
