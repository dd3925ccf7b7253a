"""Sequences that wait for a slot."""

from collections.abc import Collection

from service.scheduler.fairness import FairLine, Level
from service.scheduler.sequence import Sequence


class WaitingQueue:
    """By rank within each size class; fair to tenants among equals.

    A rank is a priority, less one for each `aging_seconds` of age: nobody waits for ever. An
    operation costs as much as there are priorities in use, and the logarithm of the tenants.
    """

    def __init__(
        self, num_classes: int, *, aging_seconds: float, running: Collection[Sequence] = ()
    ) -> None:
        """`running` shows at any time who has a slot."""
        self._num_classes = num_classes
        self._aging_seconds = aging_seconds
        self._running = running
        self._levels: dict[int, Level] = {}
        """By priority, as long as anyone of it waits or runs."""
        self._num_waiting = [0] * num_classes
        self._places: dict[int, tuple[Sequence, int]] = {}
        """Who waits, and in which class."""

    def __len__(self) -> int:
        return len(self._places)

    @property
    def least_priority(self) -> int:
        """The one that is served first, age apart; at least one waits."""
        return min(priority for priority, level in self._levels.items() if level.has_waiting)

    def has(self, class_index: int) -> bool:
        return self._num_waiting[class_index] > 0

    def rank(self, sequence: Sequence) -> float:
        """Lower is served first; the difference between two does not change with time."""
        return sequence.priority + sequence.arrived_at / self._aging_seconds

    def first(self, class_index: int) -> Sequence:
        lines = (level.lines[class_index] for level in self._levels.values())
        return min((line.first() for line in lines if line), key=self.rank)

    def enter(self, sequence: Sequence, class_index: int) -> None:
        """It has arrived; until `leave` its tenant is remembered."""
        priority = sequence.priority
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = Level(priority, self._num_classes, self._running)
        level.enter(sequence)
        self._take(sequence, class_index).push(sequence)

    def push_front(self, sequence: Sequence, class_index: int) -> None:
        """It waits again, before all of its priority."""
        self._take(sequence, class_index).push_front(sequence)

    def remove(self, sequence_id: int) -> Sequence | None:
        """It waits no longer; the sequence, if it did."""
        place = self._places.pop(sequence_id, None)
        if place is None:
            return None
        sequence, class_index = place
        self._num_waiting[class_index] -= 1
        sequence.account.num_waiting -= 1
        self._levels[sequence.priority].lines[class_index].remove(sequence)
        return sequence

    def begin(self, sequence: Sequence) -> None:
        """It has a slot."""
        self._levels[sequence.priority].begin(sequence)

    def leave(self, sequence: Sequence) -> None:
        """It has ended, wherever it was."""
        level = self._levels[sequence.priority]
        level.leave(sequence)
        if level.is_deserted:
            del self._levels[sequence.priority]

    def forget(self, session: tuple[str, str]) -> None:
        """What sequences of a session leave behind is not kept."""
        for sequence, _ in self._places.values():
            if sequence.session == session:
                sequence.is_forgotten = True

    def _take(self, sequence: Sequence, class_index: int) -> FairLine:
        """Where it is to stand."""
        self._places[sequence.id] = sequence, class_index
        self._num_waiting[class_index] += 1
        sequence.account.num_waiting += 1
        return self._levels[sequence.priority].lines[class_index]
