"""Guesses how one sequence goes on, and knows how often that was right."""

from service.core.plan import Tokens, make_tokens
from service.scheduler.alignment import Alignment
from service.scheduler.lookup import unroll

FIRST_RIGHT, FIRST_WRONG = 3.0, 0.6
"""Guesses that are taken to have been right and wrong while nothing is known."""
KEPT = 0.96
"""Of these counts, with each new one: the last 25 matter."""
MAX_TRUST = 0.99
MAX_FOLLOWED = 64
"""Tokens. Of more that came between two steps with guesses, nothing is learned."""


class Drafter:
    """One sequence's. Trust is the probability that a guess is right if those before it are.

    It learns from every token for which there was a guess, whether or not that was computed ahead:
    so it costs nothing to find out that a text copies, or has stopped to.
    """

    __slots__ = (
        "_is_predicted",
        "_num_prompt",
        "_num_seen",
        "_past",
        "_predicted",
        "_right",
        "_tokens",
        "_wrong",
        "num_accepted",
        "num_rejected",
    )

    def __init__(self, tokens: Tokens, num_prompt: int, prediction: Tokens | None = None) -> None:
        """`tokens` are the sequence's, and grow; `prediction` is what the output is said to be."""
        self._tokens = tokens
        self._num_prompt = num_prompt
        self._num_seen = num_prompt
        self._past = Alignment(tokens)
        self._predicted = Alignment(prediction, start=0) if prediction else None
        self._right, self._wrong = FIRST_RIGHT, FIRST_WRONG
        self._is_predicted = False
        """Whether the latest guesses are of the prediction, and not of the sequence."""
        self.num_accepted = 0
        """Guesses of the last step that were right and came from the prediction."""
        self.num_rejected = 0
        """Those that were wrong."""

    @property
    def has_prediction(self) -> bool:
        return self._predicted is not None

    @property
    def trust(self) -> float:
        return min(MAX_TRUST, self._right / (self._right + self._wrong))

    def draft(self, max_len: int) -> Tokens:
        """At most `max_len` tokens, perhaps none; what the client predicts goes first."""
        self._catch_up()
        predicted, past = self._predicted, self._past
        self._is_predicted = predicted is not None and predicted.next is not None
        if max_len <= 0:
            return make_tokens()
        if predicted is not None and predicted.next is not None:
            return predicted.source[predicted.next : predicted.next + max_len]
        if past.next is not None:
            return unroll(past.source, past.next, max_len)
        return make_tokens()

    def expect(self, num_drafts: int) -> float:
        """Tokens that a step with so many guesses gives.

        The one that is always drawn, and each guess if all before it are right (Leviathan et al.
        2023, equation 1).
        """
        trust = self.trust
        return (1 - trust ** (num_drafts + 1)) / (1 - trust)

    def count(self, num_drafts: int, num_right: int) -> None:
        """What became of the guesses that the step computed."""
        self.num_accepted = num_right if self._is_predicted else 0
        self.num_rejected = num_drafts - num_right if self._is_predicted else 0

    def _catch_up(self) -> None:
        """Follow the tokens that came since the last time, then look where the text stands."""
        tokens, predicted = self._tokens, self._predicted
        if len(tokens) - self._num_seen > MAX_FOLLOWED:
            self._past.lose()
            if predicted is not None:
                predicted.lose()
        else:
            for place in range(self._num_seen, len(tokens)):
                self._follow(place)
        self._num_seen = len(tokens)
        if predicted is not None and predicted.next is None:
            predicted.search(tokens, len(tokens) - self._num_prompt)
        if self._past.next is None:
            self._past.search(tokens, len(tokens))

    def _follow(self, place: int) -> None:
        """Learn from the one whose guess it would have been."""
        token = self._tokens[place]
        was_right = self._past.follow(token, place)
        if self._predicted is not None:
            verdict = self._predicted.follow(token)
            was_right = was_right if verdict is None else verdict
        if was_right is not None:
            self._right = KEPT * self._right + was_right
            self._wrong = KEPT * self._wrong + (not was_right)
