"""Which worker gets a request: its session's, or with most of its prompt cached, or least loaded.

The API process does not know the workers' caches; it remembers what it sent them. A prompt is cut
into blocks of tokens, each named by a hash of itself and everything before it, so a worker that got
the first k blocks of a prompt before can be found without comparing tokens. What a worker answered
is not remembered: the next turn is found by its session, or by the prompt that it begins with.
"""

from collections import OrderedDict
from collections.abc import Sequence

BLOCK = 32
"""Tokens. Prefixes are told apart at this grain."""


class PrefixMemory:
    """The block names last sent to one worker; the oldest are forgotten first."""

    def __init__(self, max_blocks: int) -> None:
        self._max_blocks = max_blocks
        self._names: OrderedDict[int, None] = OrderedDict()

    def add(self, names: list[int]) -> None:
        for name in names:
            self._names[name] = None
            self._names.move_to_end(name)
        while len(self._names) > self._max_blocks:
            self._names.popitem(last=False)

    def count(self, names: list[int]) -> int:
        """How many leading blocks it knows."""
        known = 0
        for name in names:
            if name not in self._names:
                break
            known += 1
        return known

    def clear(self) -> None:
        self._names.clear()


def name_blocks(share: str, prompt: list[int]) -> list[int]:
    """Names of the whole blocks of a prompt; equal names mean equal prefixes under one label."""
    names: list[int] = []
    name = hash(share)
    for start in range(0, len(prompt) - BLOCK + 1, BLOCK):
        name = hash((name, tuple(prompt[start : start + BLOCK])))
        names.append(name)
    return names


def choose_worker(
    names: list[int],
    memories: Sequence[PrefixMemory],
    loads: Sequence[int],
    *,
    num_slots: int,
    home: int | None = None,
) -> int:
    """Index of the worker for a prompt; ties go to the first. `home` is the session's.

    A worker that has more requests than the least loaded one by more than its slots would let the
    prompt wait for longer than most prompts take to compute: it is not chosen, whatever it has.
    """
    limit = min(loads) + num_slots
    if home is not None and loads[home] <= limit:
        return home
    return max(
        (index for index, load in enumerate(loads) if load <= limit),
        key=lambda index: (memories[index].count(names), -loads[index]),
    )
