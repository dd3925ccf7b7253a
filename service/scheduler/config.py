"""The scheduler's few knobs."""

import msgspec


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Budgets are in tokens a step."""

    step_tokens: int = 256
    """Prompt tokens of a step at most; also the length of llama.cpp's batch."""
    target_itl_seconds: float = 0.1
    """Gap between tokens that running streams should keep while prompts are computed."""
    aging_seconds: float = 1.0
    """Waiting so long counts as one step of priority."""
    max_drafts: int = 8
    """Guessed tokens that are computed behind a sequence's last one; 0 guesses nothing."""
    growth_tokens: int = 256
    """Room beyond the prompt that a sequence's first slot should have, if it may use it."""

    @property
    def step_drafts(self) -> int:
        """Guessed tokens of a step at most; they stand where prompt tokens would."""
        return min(4 * self.max_drafts, self.step_tokens)
