"""The scheduler's few knobs."""

import msgspec


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Budgets are in tokens a step."""

    step_tokens: int = 512
    """Prompt tokens of a step in which nothing decodes; also the length of llama.cpp's batch."""
    mixed_step_tokens: int = 64
    """Prompt tokens of a step in which others decode, so that they keep their pace."""
    growth_tokens: int = 256
    """Room beyond the prompt that a sequence's first slot should have, if it may use it."""
