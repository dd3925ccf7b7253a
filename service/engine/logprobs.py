"""Log probabilities of drawn tokens, for the draws that ask for them.

They are of the model's own distribution, before penalties, biases, masks and temperature.
"""

import math

import numpy as np

from service.core.plan import Draw
from service.core.sampling import TokenLogprobs
from service.engine.distribution import Logits, find_floor


class KeptLogits:
    """Rows as the model gave them, kept from the draws, which overwrite them."""

    def __init__(self, logits: Logits, draws: list[Draw]) -> None:
        """`logits` are (rows, vocabulary), one row for each draw."""
        asked = [
            (row, draw.num_logprobs)
            for row, draw in enumerate(draws)
            if draw.num_logprobs is not None
        ]
        self._rows = [row for row, _ in asked]
        self._num_top = [min(num_top, logits.shape[1]) for _, num_top in asked]
        self._logits = logits[self._rows] if asked else logits[:0]

    def measure(self, tokens: list[int]) -> dict[int, TokenLogprobs]:
        """By row, for the rows that ask; `tokens[row]` was drawn from it."""
        return {
            row: _measure(logits, tokens[row], num_top)
            for row, num_top, logits in zip(self._rows, self._num_top, self._logits, strict=True)
        }


def _measure(logits: Logits, token: int, num_top: int) -> TokenLogprobs:
    top = _find_top(logits, num_top)
    total = _log_sum_exp(logits)
    chosen, *logprobs = (value - total for value in logits[[token, *top]].tolist())
    return TokenLogprobs(chosen, list(zip(top, logprobs, strict=True)))


def _find_top(logits: Logits, num_top: int) -> list[int]:
    """The most probable ones, best first; equal ones in order of id."""
    if num_top == 0:
        return []
    best = np.flatnonzero(logits >= find_floor(logits, num_top))
    return best[np.argsort(-logits[best], kind="stable")][:num_top].tolist()


def _log_sum_exp(logits: Logits) -> float:
    """What turns logits into logprobs."""
    highest = logits.max()
    weights = logits - highest
    np.exp(weights, out=weights)
    return float(highest) + math.log(weights.sum(dtype=np.float64))
