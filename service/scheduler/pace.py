"""How many prompt tokens a step may compute beside running streams, learned from its own steps."""

SMOOTHING = 0.4
"""Weight of the latest step. Costs change slowly: with the depth of a prompt and the batch."""
MIN_CHUNK = 8
"""Prompt tokens. A prompt goes on however slow the machine is."""


class Pace:
    """Keeps the gap between tokens near a target.

    A step is taken to last `decode + tokens * token_cost`. Both terms follow the steps seen: the
    first from those that only decode, the second from what prompt tokens added.
    """

    def __init__(self, *, target_seconds: float, max_tokens: int) -> None:
        self._target = target_seconds
        self._max_tokens = max_tokens
        self._decode_seconds: float | None = None
        self._token_seconds: float | None = None

    @property
    def token_seconds(self) -> float | None:
        """What a prompt token takes; None until one was computed."""
        return self._token_seconds

    def observe(self, *, num_decode: int, num_prompt: int, seconds: float) -> None:
        """Learn from a step of `num_decode` running streams and `num_prompt` prompt tokens."""
        if num_prompt == 0:
            self._decode_seconds = _smooth(self._decode_seconds, seconds)
            return
        beside = (self._decode_seconds or 0.0) if num_decode else 0.0
        cost = max(seconds - beside, 0.0) / num_prompt
        self._token_seconds = _smooth(self._token_seconds, cost)

    def allow(self, *, busy_seconds: float = 0.0) -> int:
        """Prompt tokens that the next step may compute beside running streams.

        `busy_seconds` of the step are spent otherwise.
        """
        if not self._token_seconds:
            return MIN_CHUNK if self._token_seconds is None else self._max_tokens
        left = self._target - (self._decode_seconds or 0.0) - busy_seconds
        return max(MIN_CHUNK, min(int(left / self._token_seconds), self._max_tokens))


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else old + SMOOTHING * (new - old)
