"""Sequences that wait for a slot."""

from collections import OrderedDict

from service.scheduler.sequence import Sequence


class WaitingQueue:
    """By rank within each size class; first come, first served among equals.

    A rank is a priority, less one for each `aging_seconds` of age: nobody waits for ever. Within a
    priority the oldest is first, so an operation costs as much as there are priorities in use.
    """

    def __init__(self, num_classes: int, *, aging_seconds: float) -> None:
        self._aging_seconds = aging_seconds
        self._lines: list[dict[int, OrderedDict[int, Sequence]]] = [{} for _ in range(num_classes)]
        self._places: dict[int, tuple[int, int]] = {}
        """Class and priority of each sequence."""

    def __len__(self) -> int:
        return len(self._places)

    @property
    def least_priority(self) -> int:
        """The one that is served first, age apart; at least one waits."""
        return min(priority for lines in self._lines for priority in lines)

    def has(self, class_index: int) -> bool:
        return bool(self._lines[class_index])

    def rank(self, sequence: Sequence) -> float:
        """Lower is served first; the difference between two does not change with time."""
        return sequence.priority + sequence.arrived_at / self._aging_seconds

    def first(self, class_index: int) -> Sequence:
        heads = (next(iter(line.values())) for line in self._lines[class_index].values())
        return min(heads, key=self.rank)

    def push(self, sequence: Sequence, class_index: int) -> None:
        line = self._lines[class_index].setdefault(sequence.priority, OrderedDict())
        line[sequence.id] = sequence
        self._places[sequence.id] = class_index, sequence.priority

    def push_front(self, sequence: Sequence, class_index: int) -> None:
        """Before all of its priority."""
        self.push(sequence, class_index)
        self._lines[class_index][sequence.priority].move_to_end(sequence.id, last=False)

    def remove(self, sequence_id: int) -> Sequence | None:
        """Forget a sequence; it, if it was waiting."""
        place = self._places.pop(sequence_id, None)
        if place is None:
            return None
        class_index, priority = place
        line = self._lines[class_index][priority]
        sequence = line.pop(sequence_id)
        if not line:
            del self._lines[class_index][priority]
        return sequence

    def forget(self, session: tuple[str, str]) -> None:
        """What sequences of a session leave behind is not kept."""
        for lines in self._lines:
            for line in lines.values():
                for sequence in line.values():
                    if sequence.session == session:
                        sequence.is_forgotten = True
