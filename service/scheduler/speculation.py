"""How many guessed tokens a step computes behind the last ones of its running sequences.

A guess costs a row, and a pass more where the sequences beside it have fewer; it gains a token if
it and all before it are right. What a step computes is what gives the most tokens a second.
"""

from collections.abc import Sequence as Line
from dataclasses import dataclass, replace

from service.core.plan import Chunk, Filler, Tokens
from service.kvcache.costs import Costs
from service.scheduler.config import SchedulerConfig
from service.scheduler.decode_cost import DecodeCost
from service.scheduler.drafter import Drafter
from service.scheduler.passes import count_passes_of, rows_by_slot
from service.scheduler.sequence import Sequence

GAIN = 1.05
"""A step with guesses must promise so much more: costs are estimates."""
TRIAL_STEPS = 100
"""After so many steps without drafts, some that are likely to be right are tried whatever they are
believed to cost: what is never tried is never learned."""
TRIAL_DRAFTS = 3
TRIAL_TRUST = 0.8


@dataclass(frozen=True, slots=True)
class _Guess:
    """What one chunk could be given."""

    index: int
    sequence: Sequence
    drafts: Tokens


class Speculation:
    """Chooses drafts, and learns what they cost."""

    def __init__(self, config: SchedulerConfig, costs: Costs, eog_tokens: frozenset[int]) -> None:
        self._max_drafts = config.max_drafts
        self._step_drafts = config.step_drafts
        self._target_seconds = config.target_itl_seconds
        self._cost = DecodeCost(costs)
        self._num_without = 0
        """Times that it was asked since the last one with drafts."""
        self._eog_tokens = eog_tokens

    def draft(
        self, sequences: Line[Sequence], chunks: list[Chunk], fillers: Line[Filler]
    ) -> list[Chunk]:
        """The chunks of decoding sequences in one context, with drafts where they pay."""
        if self._max_drafts == 0:
            return chunks
        self._num_without += 1
        if not (self._could_pay(len(sequences)) or self._num_without % TRIAL_STEPS == 0):
            return chunks
        is_trial = self._num_without >= TRIAL_STEPS
        guesses = self._guess(sequences, is_trial=is_trial)
        if not guesses:
            return chunks
        lengths = rows_by_slot(chunks, fillers)
        best = max(
            range(self._longest(guesses) + 1),
            key=lambda limit: self._value(limit, sequences, guesses, lengths),
        )
        if best == 0 and is_trial:
            best = min(TRIAL_DRAFTS, self._longest(guesses))
        if best == 0:
            return chunks
        self._num_without = 0
        chunks = list(chunks)
        for guess in guesses:
            chunk = chunks[guess.index]
            chunks[guess.index] = replace(chunk, drafts=tuple(guess.drafts[:best]))
        return chunks

    def observe(self, num_rows: int, seconds: float) -> None:
        """Learn from a step of one running sequence: its last token, and drafts behind it."""
        self._cost.observe(num_rows, seconds)

    def without_drafts(self, seconds: float, num_sequences: int, num_rows: int) -> float:
        """What a step of so many rows would have taken without those of its drafts."""
        plain, whole = (self._cost.seconds(1, rows) for rows in (num_sequences, num_rows))
        return seconds * plain / whole if whole else seconds

    def _could_pay(self, num_rows: int) -> bool:
        """Whether guesses behind each row would pay if all were right, or those behind one.

        If neither does, none are sought.
        """
        plain = GAIN * num_rows / self._cost.seconds(1, num_rows)
        each = min(self._max_drafts, self._step_drafts // num_rows)
        choices = [(1, num_rows * drafts) for drafts in range(1, each + 1)]
        choices.append((2, self._max_drafts))
        for num_passes, num_drafts in choices:
            seconds = self._cost.seconds(num_passes, num_rows + num_drafts)
            if seconds <= self._target_seconds and (num_rows + num_drafts) / seconds > plain:
                return True
        return False

    def _guess(self, sequences: Line[Sequence], *, is_trial: bool) -> list[_Guess]:
        """Of those whose guesses were right often enough to pay if all had some."""
        needed = self._list_needed(len(sequences))
        guesses: list[_Guess] = []
        for index, sequence in enumerate(sequences):
            drafter = sequence.drafter
            if drafter is None:
                continue
            drafts = self._cut(sequence.draft(self._max_drafts))
            if drafts and (_pays(drafter, needed) or (is_trial and drafter.trust > TRIAL_TRUST)):
                guesses.append(_Guess(index, sequence, drafts))
        return guesses

    def _list_needed(self, num_rows: int) -> list[float]:
        """Tokens that 1, 2, … guesses behind each row must give it, so that they pay."""
        plain = self._cost.seconds(1, num_rows)
        return [
            GAIN * self._cost.seconds(1, num_rows * (1 + num_drafts)) / plain
            for num_drafts in range(1, self._max_drafts + 1)
        ]

    def _cut(self, drafts: Tokens) -> Tokens:
        """Before a token that ends the sequence: nothing is computed behind that."""
        for index, token in enumerate(drafts):
            if token in self._eog_tokens:
                return drafts[:index]
        return drafts

    def _longest(self, guesses: list[_Guess]) -> int:
        """How many drafts all can have within the step's budget."""
        longest = max(len(guess.drafts) for guess in guesses)
        return min(longest, self._step_drafts // len(guesses))

    def _value(
        self,
        limit: int,
        sequences: Line[Sequence],
        guesses: list[_Guess],
        lengths: dict[int, int],
    ) -> float:
        """Tokens a second of a step with at most `limit` drafts behind each sequence.

        Nothing where drafts would keep streams waiting for longer than tokens should.
        """
        lengths = dict(lengths)
        num_tokens = float(len(sequences) - len(guesses))
        for guess in guesses:
            num_drafts = min(limit, len(guess.drafts))
            assert guess.sequence.slot is not None
            assert guess.sequence.drafter is not None
            lengths[guess.sequence.slot.index] += num_drafts
            num_tokens += guess.sequence.drafter.expect(num_drafts)
        seconds = self._cost.seconds(count_passes_of(lengths), sum(lengths.values()))
        if limit == 0:
            return GAIN * num_tokens / seconds
        return num_tokens / seconds if seconds <= self._target_seconds else 0.0


def _pays(drafter: Drafter, needed: list[float]) -> bool:
    return any(drafter.expect(num) > tokens for num, tokens in enumerate(needed, start=1))
