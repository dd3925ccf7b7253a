"""Who runs in a worker's step, in memory that outlives the worker."""

import mmap
import os
from array import array
from typing import Self

CAPACITY = 4096
"""Sequences; more than any pool of contexts has slots."""
_WORD_BYTES = 8
_NUM_BYTES = (1 + CAPACITY) * _WORD_BYTES


class Roster:
    """Written by a worker before each step; read by the API process when the worker has died.

        word 0: how many | words 1 …: their sequence ids

    A report would come too late: the step that ends the worker is the one that nobody hears of.
    """

    def __init__(self, descriptor: int) -> None:
        """Share what `create` made, through the descriptor that this process inherited."""
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _NUM_BYTES)
        self._words = memoryview(self._memory).cast("q")

    @classmethod
    def create(cls) -> Self:
        """An empty one, in anonymous memory: there is no file to leave behind."""
        descriptor = os.memfd_create("smolserve-roster")
        os.ftruncate(descriptor, _NUM_BYTES)
        return cls(descriptor)

    def write(self, sequence_ids: list[int]) -> None:
        words = array("q", sequence_ids[:CAPACITY])
        self._words[0] = 0  # whoever dies within this method leaves nobody rather than a mixture
        self._words[1 : 1 + len(words)] = words
        self._words[0] = len(words)

    def read(self) -> frozenset[int]:
        return frozenset(self._words[1 : 1 + self._words[0]])

    def close(self) -> None:
        self._words.release()
        self._memory.close()
        os.close(self.descriptor)
