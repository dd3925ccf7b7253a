"""What a step has for prompts, and in which order they take it."""

import itertools
from collections.abc import Collection

from service.scheduler.pace import Pace
from service.scheduler.sequence import Sequence

OVERTAKING = 0.5
"""Steps in which shorter prompts may go before one whose turn it is, for each that it leads."""


class StepBudget:
    """Dies with the step. Without `seconds`, which running streams leave, only tokens count."""

    def __init__(self, num_tokens: int, *, pace: Pace, seconds: float | None = None) -> None:
        self._num_tokens = num_tokens
        self._num_taken = 0
        self._pace = pace
        self._seconds = seconds
        self._seconds_taken = 0.0

    def take(self, num_wanted: int, *, depth: int, least: int) -> int:
        """How many tokens of a prompt, behind `depth` others, are computed; `least` in any case."""
        num = max(0, min(num_wanted, self._num_tokens - self._num_taken))
        if self._seconds is not None:
            num_small = self._pace.fit_small(self._seconds, depth) - self._num_taken
            num_fitting = self._pace.fit(self._seconds - self._seconds_taken, depth)
            num = max(least, min(num, max(num_small, num_fitting)))
            self._seconds_taken += num * self._pace.cost(depth)
        self._num_taken += num
        return num


def line_up(running: Collection[Sequence]) -> Collection[Sequence]:
    """All of them, prompts in the order in which they take their share of a step.

    By priority; then by turn, which is fair to tenants; but shorter prompts overtake the one whose
    turn it is, in one of three steps at most. So a short prompt hardly waits, and none waits for
    more than half as many steps again as it would in a line.
    """
    prompts = [sequence for sequence in running if sequence.num_pending > 1]
    if not prompts:
        return running
    prompts.sort(key=_turn)
    ordered = [sequence for sequence in running if sequence.num_pending <= 1]
    for _, equals in itertools.groupby(prompts, key=_priority):
        first, *others = equals
        shorter = [other for other in others if other.num_pending < first.num_pending]
        if shorter and first.num_overtaken <= OVERTAKING * first.num_led:
            first.num_overtaken += 1
            ordered += sorted(shorter, key=_num_pending)
            others = [other for other in others if other not in shorter]
        else:
            first.num_led += 1
        ordered += (first, *others)
    return ordered


def _turn(sequence: Sequence) -> tuple[int, float]:
    return sequence.priority, sequence.turn


def _priority(sequence: Sequence) -> int:
    return sequence.priority


def _num_pending(sequence: Sequence) -> int:
    return sequence.num_pending
