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
    until: float
    """When it waits no longer."""


class LoadingSequences:
    """In the order they began to wait."""

    def __init__(self) -> None:
        self._loading: dict[int, Loading] = {}

    def __len__(self) -> int:
        return len(self._loading)

    def __iter__(self) -> Iterator[Sequence]:
        return (loading.sequence for loading in self._loading.values())

    @property
    def next_timeout(self) -> float:
        return min((loading.until for loading in self._loading.values()), default=float("inf"))

    def add(self, loading: Loading) -> None:
        self._loading[loading.sequence.id] = loading

    def remove(self, sequence_id: int) -> Sequence | None:
        """Forget a sequence; it, if it was waiting here."""
        loading = self._loading.pop(sequence_id, None)
        return None if loading is None else loading.sequence

    def take_loaded(self, file_id: int) -> list[Loading]:
        """Those that waited for nothing else, latest first."""
        for loading in self._loading.values():
            loading.files.discard(file_id)
        return self._take([each for each in self._loading.values() if not each.files])

    def take_late(self, now: float) -> list[Loading]:
        """Those that have waited long enough, latest first."""
        return self._take([each for each in self._loading.values() if each.until <= now])

    def _take(self, taken: list[Loading]) -> list[Loading]:
        for loading in taken:
            del self._loading[loading.sequence.id]
        return taken[::-1]
