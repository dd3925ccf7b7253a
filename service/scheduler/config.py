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
    growth_tokens: int = 256
    """Room beyond the prompt that a sequence's first slot should have, if it may use it."""
