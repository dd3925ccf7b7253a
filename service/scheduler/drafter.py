"""Guesses how one sequence goes on, and knows how often that was right."""

from service.core.plan import Tokens, make_tokens
from service.scheduler.lookup import continue_prediction, continue_repetition

FIRST_TRUST = 0.6
"""Taken for a sequence of which nothing is known yet."""
LEARNING = 0.25
"""Weight of the latest guess."""
FORGETTING = 0.01
"""A step without guesses brings trust back by so much: texts begin to repeat, and stop."""


class Drafter:
    """One sequence's; `trust` is the probability that a guess behind right ones is right."""

    __slots__ = ("_is_predicted", "_prediction", "num_accepted", "num_rejected", "trust")

    def __init__(self, prediction: Tokens | None) -> None:
        """`prediction` is what the client thinks the output will be."""
        self._prediction = prediction
        self._is_predicted = False
        self.trust = FIRST_TRUST
        self.num_accepted = 0
        """Guesses of the last step that were right and came from the prediction."""
        self.num_rejected = 0
        """Those that were wrong."""

    @property
    def has_prediction(self) -> bool:
        return self._prediction is not None

    def draft(self, tokens: Tokens, num_output: int, max_len: int) -> Tokens:
        """At most `max_len` tokens, perhaps none; what the client predicts goes first."""
        self._is_predicted = False
        if max_len <= 0:
            return make_tokens()
        if self._prediction is not None and num_output > 0:
            drafts = continue_prediction(self._prediction, tokens[-num_output:], max_len)
            if drafts:
                self._is_predicted = True
                return drafts
        return continue_repetition(tokens, max_len)

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
        if num_drafts == 0:
            self.trust += FORGETTING * (FIRST_TRUST - self.trust)
            return
        for _ in range(num_right):
            self.trust += LEARNING * (1 - self.trust)
        if num_right < num_drafts:
            self.trust -= LEARNING * self.trust
