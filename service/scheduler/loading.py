"""Sequences that wait until files of their prompt's prefix are in memory."""

from collections.abc import Iterator
from dataclasses import dataclass

from service.scheduler.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Loading:
    """Returns to its class's queue when the last of its files has been read, or could not be."""

    sequence: Sequence
    class_index: int
    files: set[int]


class LoadingSequences:
    """In the order they began to wait."""

    def __init__(self) -> None:
        self._loading: dict[int, Loading] = {}

    def __len__(self) -> int:
        return len(self._loading)

    def __iter__(self) -> Iterator[Sequence]:
        return (loading.sequence for loading in self._loading.values())

    def add(self, loading: Loading) -> None:
        self._loading[loading.sequence.id] = loading

    def remove(self, sequence_id: int) -> bool:
        """Forget a sequence; whether it was waiting here."""
        return self._loading.pop(sequence_id, None) is not None

    def take_loaded(self, file_id: int) -> list[Loading]:
        """Those that waited for nothing else, latest first."""
        for loading in self._loading.values():
            loading.files.discard(file_id)
        loaded = [loading for loading in self._loading.values() if not loading.files]
        for loading in loaded:
            del self._loading[loading.sequence.id]
        loaded.reverse()
        return loaded
