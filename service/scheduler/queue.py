"""Sequences that wait for a slot."""

from collections import OrderedDict

from service.scheduler.sequence import Sequence


class WaitingQueue:
    """First come, first served within each size class. Every operation is O(1)."""

    def __init__(self, num_classes: int) -> None:
        self._queues: list[OrderedDict[int, Sequence]] = [OrderedDict() for _ in range(num_classes)]
        self._class_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._class_of)

    def has(self, class_index: int) -> bool:
        return bool(self._queues[class_index])

    def push(self, sequence: Sequence, class_index: int) -> None:
        self._queues[class_index][sequence.id] = sequence
        self._class_of[sequence.id] = class_index

    def push_front(self, sequence: Sequence, class_index: int) -> None:
        self.push(sequence, class_index)
        self._queues[class_index].move_to_end(sequence.id, last=False)

    def pop(self, class_index: int) -> Sequence:
        sequence_id, sequence = self._queues[class_index].popitem(last=False)
        del self._class_of[sequence_id]
        return sequence

    def remove(self, sequence_id: int) -> bool:
        """Forget a sequence; whether it was waiting."""
        class_index = self._class_of.pop(sequence_id, None)
        if class_index is None:
            return False
        del self._queues[class_index][sequence_id]
        return True
