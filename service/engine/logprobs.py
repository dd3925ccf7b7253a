"""Log probabilities of drawn tokens, for the draws that ask for them.

They are of the model's own distribution, before penalties, biases, masks and temperature.
"""

import numpy as np
import numpy.typing as npt

from service.core.plan import Draw
from service.core.sampling import TokenLogprobs
from service.engine.sampling import Logits


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
        if not self._rows:
            return {}
        chosen = self._logits[np.arange(len(self._rows)), [tokens[row] for row in self._rows]]
        totals = _log_sum_exp(self._logits)
        return {
            row: TokenLogprobs(float(value - total), _find_top(logits, num_top, total))
            for row, num_top, logits, value, total in zip(
                self._rows, self._num_top, self._logits, chosen, totals, strict=True
            )
        }


def _log_sum_exp(logits: Logits) -> npt.NDArray[np.float64]:
    """Of each row; what turns its logits into logprobs."""
    highest = logits.max(axis=1)
    return highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1, dtype=np.float64))


def _find_top(logits: Logits, num_top: int, total: np.float64) -> list[tuple[int, float]]:
    if num_top == 0:
        return []
    top = np.argpartition(logits, -num_top)[-num_top:]
    top = top[np.lexsort((top, -logits[top]))]
    return [(int(token), float(logits[token] - total)) for token in top]
