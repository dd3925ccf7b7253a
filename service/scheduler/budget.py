"""In which order prompts get the tokens that a step has for them."""

import itertools
from collections.abc import Collection

from service.scheduler.sequence import Sequence

OVERTAKING = 0.5
"""Tokens of shorter prompts that may go before one of a long prompt, on the average."""


def line_up(running: Collection[Sequence], num_tokens: int) -> Collection[Sequence]:
    """All of them, prompts in the order in which they take their share of `num_tokens`.

    By priority; then by turn, which is fair to tenants; but shorter prompts overtake the one whose
    turn it is, until they have cost it half of what was computed of it meanwhile. So a short prompt
    hardly waits, and none is computed later than 1.5 times as long a line would let it, and a step.
    """
    prompts = [sequence for sequence in running if sequence.num_pending > 1]
    if len(prompts) < 2:  # noqa: PLR2004 - nobody to be before or behind
        return running
    prompts.sort(key=_turn)
    ordered = [sequence for sequence in running if sequence.num_pending <= 1]
    for _, equals in itertools.groupby(prompts, key=_priority):
        group = list(equals)
        overtaking = _find_overtaking(*group)
        given = min(sum(sequence.num_pending for sequence in overtaking), num_tokens)
        group[0].num_overtaken += given
        ordered += overtaking
        ordered += (sequence for sequence in group if sequence not in overtaking)
        num_tokens -= min(sum(sequence.num_pending for sequence in group), num_tokens)
    return ordered


def _find_overtaking(first: Sequence, *others: Sequence) -> list[Sequence]:
    """Those that are before the first one, the shortest first."""
    if first.num_overtaken > OVERTAKING * (first.num_computed - first.num_cached):
        return []
    shorter = (other for other in others if other.num_pending < first.num_pending)
    return sorted(shorter, key=_num_pending)


def _turn(sequence: Sequence) -> tuple[int, float]:
    return sequence.priority, sequence.turn


def _priority(sequence: Sequence) -> int:
    return sequence.priority


def _num_pending(sequence: Sequence) -> int:
    return sequence.num_pending
