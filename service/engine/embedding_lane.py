"""Which text is computed when, and with how many tokens, so that chats hardly notice."""

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.core.messages import Embed, Embedded
from service.core.plan import Tokens, make_tokens
from service.scheduler.pace import Pace

MAX_CHUNK = 128
"""Tokens. Every row is an output, with as many logits as the vocabulary has tokens."""
SHARE = 0.1
"""Of the chats' time, which texts may take beside it: chats lose a tenth of their speed at most."""


@dataclass(frozen=True, slots=True)
class TextChunk:
    """Compute `tokens[start:end]`."""

    sequence_id: int
    tokens: Tokens
    start: int
    end: int
    is_beside_chats: bool


@dataclass(slots=True)
class _Text:
    sequence_id: int
    tokens: Tokens
    num_computed: int = 0
    states: npt.NDArray[np.float64] | None = None
    """The sum of those that are computed."""


class EmbeddingLane:
    """Texts, first come, first served.

    A chunk takes what a step of the chats left of the target gap between tokens, and then the lane
    owes its time: there is no other one before the chats have had that many times more. With
    nobody to wait for it a chunk still ends within the target, as a chat may come at any time.
    """

    def __init__(self, *, target_seconds: float) -> None:
        self._pace = Pace(target_seconds=target_seconds, max_tokens=MAX_CHUNK)
        self._texts: deque[_Text] = deque()
        self._owed_seconds = 0.0

    @property
    def has_work(self) -> bool:
        return bool(self._texts)

    def add(self, command: Embed) -> None:
        self._texts.append(_Text(command.sequence_id, make_tokens(command.tokens)))

    def abort(self, sequence_id: int) -> None:
        self._texts = deque(text for text in self._texts if text.sequence_id != sequence_id)

    def plan(self, *, beside_seconds: float | None) -> TextChunk | None:
        """The next chunk, if it is time for one.

        `beside_seconds` is how long the step of chats took that has just ended; None if no chat
        runs.
        """
        if beside_seconds is None:
            self._owed_seconds = 0.0
        else:
            self._owed_seconds = max(0.0, self._owed_seconds - SHARE * beside_seconds)
        if not self._texts or self._owed_seconds:
            return None
        text = self._texts[0]
        end = text.num_computed + self._pace.allow(busy_seconds=beside_seconds or 0.0)
        return TextChunk(
            text.sequence_id,
            text.tokens,
            text.num_computed,
            min(end, len(text.tokens)),
            is_beside_chats=beside_seconds is not None,
        )

    def apply(self, chunk: TextChunk, states: npt.NDArray[np.float64], seconds: float) -> Embedded:
        """Take a chunk in that was computed in `seconds`; what to report of it."""
        text = self._texts[0]
        assert chunk.sequence_id == text.sequence_id
        assert chunk.start == text.num_computed
        if chunk.is_beside_chats:
            self._owed_seconds += seconds
        self._pace.observe(num_decode=0, num_prompt=chunk.end - chunk.start, seconds=seconds)
        text.num_computed = chunk.end
        text.states = states if text.states is None else text.states + states
        if text.num_computed < len(text.tokens):
            return Embedded(sequence_id=text.sequence_id, vector=None)
        self._texts.popleft()
        return Embedded(sequence_id=text.sequence_id, vector=_normalise(text.states).tobytes())


def _normalise(states: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The direction of a mean is that of the sum."""
    return (states / np.linalg.norm(states)).astype("<f4")
