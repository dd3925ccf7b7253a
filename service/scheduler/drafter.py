"""Guesses how one sequence goes on, and knows how often that was right."""

from service.core.plan import Tokens, make_tokens
from service.scheduler.lookup import (
    MATCH_LENS,
    find_continuation,
    find_prediction,
    find_resumption,
    unroll,
)

FIRST_RIGHT, FIRST_WRONG = 3.0, 0.6
"""Guesses that are taken to have been right and wrong while nothing is known."""
KEPT = 0.96
"""Of these counts, with each new guess: the last 25 matter."""
FORGETTING = 0.005
"""A step without guesses brings the counts back by so much: texts begin to repeat, and stop."""
PATIENCE = 4
"""Tokens after a wrong guess within which the text is expected to go on as it was guessed."""


class Drafter:
    """One sequence's. Trust is the probability that a guess is right if those before it are."""

    __slots__ = (
        "_is_predicted",
        "_lost_at",
        "_num_lost",
        "_prediction",
        "_right",
        "_start",
        "_wrong",
        "num_accepted",
        "num_rejected",
    )

    def __init__(self, prediction: Tokens | None) -> None:
        """`prediction` is what the client thinks the output will be."""
        self._prediction = prediction
        self._right, self._wrong = FIRST_RIGHT, FIRST_WRONG
        self._is_predicted = False
        """Whether the latest guesses are of the prediction, and not of the sequence."""
        self._start = 0
        """Where in that they stand."""
        self._lost_at = 0
        """Where the first wrong one stands."""
        self._num_lost = PATIENCE
        """Tokens since then."""
        self.num_accepted = 0
        """Guesses of the last step that were right and came from the prediction."""
        self.num_rejected = 0
        """Those that were wrong."""

    @property
    def has_prediction(self) -> bool:
        return self._prediction is not None

    @property
    def trust(self) -> float:
        return self._right / (self._right + self._wrong)

    def draft(self, tokens: Tokens, num_output: int, max_len: int) -> Tokens:
        """At most `max_len` tokens, perhaps none; what the client predicts goes first."""
        if max_len <= 0:
            return make_tokens()
        start = self._find_in_prediction(tokens, num_output)
        self._is_predicted = start is not None
        if self._prediction is not None and start is not None:
            self._start = start
            return self._prediction[start : start + max_len]
        start = self._find_in_text(tokens)
        if start is None:
            return make_tokens()
        self._start = start
        return unroll(tokens, start, max_len)

    def expect(self, num_drafts: int) -> float:
        """Tokens that a step with so many guesses gives.

        The one that is always drawn, and each guess if all before it are right (Leviathan et al.
        2023, equation 1).
        """
        trust = min(self.trust, 0.99)
        return (1 - trust ** (num_drafts + 1)) / (1 - trust)

    def learn(self, num_drafts: int, num_right: int) -> None:
        """What became of the step's guesses; those behind the first wrong one tell nothing."""
        self.num_accepted = num_right if self._is_predicted else 0
        self.num_rejected = num_drafts - num_right if self._is_predicted else 0
        self._num_lost += 1
        if num_drafts == 0:
            self._right += FORGETTING * (FIRST_RIGHT - self._right)
            self._wrong += FORGETTING * (FIRST_WRONG - self._wrong)
            return
        num_wrong = 1 if num_right < num_drafts else 0
        kept = KEPT ** (num_right + num_wrong)
        self._right = kept * self._right + num_right
        self._wrong = kept * self._wrong + num_wrong
        if num_wrong:
            self._lost_at, self._num_lost = self._start + num_right, 0

    def _find_in_prediction(self, tokens: Tokens, num_output: int) -> int | None:
        if self._prediction is None or num_output == 0:
            return None
        start = find_prediction(self._prediction, tokens[-num_output:])
        if start is None and self._is_predicted:
            start = self._resume(self._prediction, tokens[-1])
        return start

    def _find_in_text(self, tokens: Tokens) -> int | None:
        longest, *shorter = MATCH_LENS
        start = find_continuation(tokens, longest)
        if start is None and not self._is_predicted:
            start = self._resume(tokens, tokens[-1])
        for match_len in shorter:
            if start is None:
                start = find_continuation(tokens, match_len)
        return start

    def _resume(self, source: Tokens, token: int) -> int | None:
        """Behind an edit: where the source has the latest token close to what was guessed last."""
        if self._num_lost >= PATIENCE:
            return None
        return find_resumption(source, self._lost_at, token)
