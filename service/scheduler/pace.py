"""What a prompt token costs beside running streams, learned from the worker's own steps."""

SMOOTHING = 0.4
"""Weight of the latest step. Costs change: with the batch, and with who else uses the machine."""
MIN_CHUNK = 8
"""Prompt tokens. A prompt goes on however slow the machine is."""
GOOD_CHUNK = 16
"""Prompt tokens. A smaller chunk takes notably longer for each: every pass reads the weights, and
the cells before it, whatever number of rows it has."""
OVERDRAFT = 0.5
"""Of the target, by which a step may exceed it for a chunk that is no larger than `GOOD_CHUNK`."""
DEPTH_UNIT = 1000
"""Cells. Puts both terms of a token's cost into figures of the same size."""

MIN_SHARE = 0.1
"""Of a token's seconds at any depth, what one at depth 0 is taken to need at least: to be wrong so
costs a few small chunks, and to believe in none a step that is far too long."""


class Pace:
    """Keeps the gap between tokens near a target.

    A step is taken to last `decode + tokens * (cost + depth * depth_cost)`, where depth is how many
    cells of its sequence a token attends over. `decode` follows the steps that only decode. The
    other two follow what prompt tokens added, by normalised least mean squares: each takes its
    share of the error, so what is known of deep prompts stays while only short ones come.
    """

    def __init__(self, *, target_seconds: float, max_tokens: int) -> None:
        self._target = target_seconds
        self._max_tokens = max_tokens
        self._decode_seconds: float | None = None
        self._cost: float | None = None
        self._depth_cost = 0.0
        self._latest_depth = 0.0

    @property
    def token_seconds(self) -> float | None:
        """What a prompt token takes at the depth of the latest; None until one was computed."""
        return None if self._cost is None else self.cost(self._latest_depth)

    def cost(self, depth: float) -> float:
        """Seconds of a prompt token behind so many others; 0 while nothing is known."""
        return (self._cost or 0.0) + self._depth_cost * depth / DEPTH_UNIT

    def observe(
        self, *, num_decode: int, num_prompt: int, seconds: float, depth: float = 0.0
    ) -> None:
        """Learn from a step of `num_decode` running streams and `num_prompt` prompt tokens.

        `depth` is the mean of the prompt tokens'.
        """
        if num_prompt == 0:
            self._decode_seconds = _smooth(self._decode_seconds, seconds)
            return
        beside = (self._decode_seconds or 0.0) if num_decode else 0.0
        self._learn(max(seconds - beside, 0.0) / num_prompt, depth)

    def _learn(self, seconds: float, depth: float) -> None:
        """Change both terms as little as brings them nearer to a token's seconds."""
        self._latest_depth = depth
        scaled = depth / DEPTH_UNIT
        weight = SMOOTHING if self._cost is not None else 1.0
        share = weight * (seconds - self.cost(depth)) / (1 + scaled * scaled)
        self._cost = max(MIN_SHARE * seconds, (self._cost or 0.0) + share)
        self._depth_cost = max(0.0, self._depth_cost + share * scaled)

    def leave(self, *, busy_seconds: float = 0.0) -> float:
        """Seconds that prompts may take of the next step beside running streams.

        `busy_seconds` of it are spent otherwise.
        """
        return self._target - (self._decode_seconds or 0.0) - busy_seconds

    def fit(self, seconds: float, depth: float = 0.0) -> int:
        """Prompt tokens behind so many others that can be computed in so long."""
        cost = self.cost(depth)
        if not cost:
            return MIN_CHUNK if self._cost is None else self._max_tokens
        return max(0, min(int(seconds / cost), self._max_tokens))

    def fit_small(self, seconds: float, depth: float = 0.0) -> int:
        """Prompt tokens of a chunk that may take longer than `seconds`, as it is small."""
        num = self.fit(seconds + OVERDRAFT * self._target, depth)
        return max(MIN_CHUNK, min(GOOD_CHUNK, num))

    def allow(self, *, busy_seconds: float = 0.0) -> int:
        """Tokens of a text that is no chat's prompt: it keeps the target, if it gets so far."""
        return max(MIN_CHUNK, self.fit(self.leave(busy_seconds=busy_seconds)))


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else old + SMOOTHING * (new - old)
