"""Guesses how one sequence goes on, and knows how often that was right."""

from service.core.plan import Tokens, make_tokens
from service.scheduler.lookup import MATCH_LENS, continue_prediction, continue_repetition

PREDICTED = 0
"""The kind of guess that a client's prediction gives; the others are of matches, longest first."""
FIRST_COUNTS = ((3.0, 0.5), (3.0, 0.5), (2.4, 0.6))
"""Right and wrong guesses of each kind that are taken to have been, while nothing is known."""
KEPT = 0.96
"""Of the counts, with each new guess: the last 25 matter."""
FORGETTING = 0.005
"""What a step did not try comes so much closer to it again: texts begin to repeat, and stop."""


class Drafter:
    """One sequence's. Trust is the probability that a guess is right if those before it are."""

    __slots__ = ("_kind", "_prediction", "_right", "_wrong", "num_accepted", "num_rejected")

    def __init__(self, prediction: Tokens | None) -> None:
        """`prediction` is what the client thinks the output will be."""
        self._prediction = prediction
        self._kind = PREDICTED
        self._right, self._wrong = map(list, zip(*FIRST_COUNTS, strict=True))
        self.num_accepted = 0
        """Guesses of the last step that were right and came from the prediction."""
        self.num_rejected = 0
        """Those that were wrong."""

    @property
    def has_prediction(self) -> bool:
        return self._prediction is not None

    def may_reach(self, trust: float) -> bool:
        """Whether any of its guesses would be trusted so much."""
        return any(self._trust(kind) >= trust for kind in range(len(FIRST_COUNTS)))

    def draft(self, tokens: Tokens, num_output: int, max_len: int) -> Tokens:
        """At most `max_len` tokens, perhaps none; what the client predicts goes first."""
        if max_len <= 0:
            return make_tokens()
        if self._prediction is not None and num_output > 0:
            self._kind = PREDICTED
            drafts = continue_prediction(self._prediction, tokens[-num_output:], max_len)
            if drafts:
                return drafts
        for index, match_len in enumerate(MATCH_LENS):
            self._kind = PREDICTED + 1 + index
            drafts = continue_repetition(tokens, match_len, max_len)
            if drafts:
                return drafts
        return make_tokens()

    def expect(self, num_drafts: int) -> float:
        """Tokens that a step with so many of the latest guesses gives.

        The one that is always drawn, and each guess if all before it are right (Leviathan et al.
        2023, equation 1).
        """
        trust = min(self._trust(self._kind), 0.99)
        return (1 - trust ** (num_drafts + 1)) / (1 - trust)

    def learn(self, num_drafts: int, num_right: int) -> None:
        """What became of the step's guesses; those behind the first wrong one tell nothing."""
        is_predicted = self._kind == PREDICTED
        self.num_accepted = num_right if is_predicted else 0
        self.num_rejected = num_drafts - num_right if is_predicted else 0
        for kind, (first_right, first_wrong) in enumerate(FIRST_COUNTS):
            if num_drafts == 0 or kind != self._kind:
                self._right[kind] += FORGETTING * (first_right - self._right[kind])
                self._wrong[kind] += FORGETTING * (first_wrong - self._wrong[kind])
        if num_drafts:
            num_wrong = 1 if num_right < num_drafts else 0
            kept = KEPT ** (num_right + num_wrong)
            self._right[self._kind] = kept * self._right[self._kind] + num_right
            self._wrong[self._kind] = kept * self._wrong[self._kind] + num_wrong

    def _trust(self, kind: int) -> float:
        return self._right[kind] / (self._right[kind] + self._wrong[kind])
