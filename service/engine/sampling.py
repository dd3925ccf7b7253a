"""Drawing tokens from logits.

The draw is a pure function of (logits, seed, position): a sequence that was preempted, moved or
replayed continues as it would have. Random numbers come from a counter-based generator (SplitMix64
over seed and position), and the draw inverts the cumulative distribution in order of token id,
which a small change of the logits disturbs little.
"""

import numpy as np

from service.core.plan import Draw
from service.engine.distribution import Logits, draw_at_temperature

MIN_TEMPERATURE = 1e-4
"""Below it the draw is greedy: weights of all but the best token would underflow."""

_MASK = (1 << 64) - 1


def draw_tokens(
    logits: Logits, draws: list[Draw], positions: list[int], eog: list[int]
) -> list[int]:
    """One token for each row of `logits` (rows, vocabulary), which it may overwrite.

    `positions[i]` is where row i's token will stand in its sequence.
    """
    is_plain = [
        _is_plain_greedy(draw, position) for draw, position in zip(draws, positions, strict=True)
    ]
    if all(is_plain):
        return logits.argmax(axis=1).tolist()
    # Beside others, greedy rows are not gathered for one call: a copy costs more than the calls.
    return [
        int(row.argmax()) if plain else draw_token(row, draw, position, eog)
        for row, draw, position, plain in zip(logits, draws, positions, is_plain, strict=True)
    ]


def draw_token(logits: Logits, draw: Draw, position: int, eog: list[int]) -> int:
    """A token from one row of logits, which it overwrites; a constraint is in them already."""
    params = draw.params
    _penalise(logits, draw)
    for token, bias in params.logit_bias:
        logits[token] += bias
    if params.ignore_eos or position - draw.num_prompt_tokens < params.min_tokens:
        logits[eog] = -np.inf
        if draw.constraint is not None and np.isneginf(logits.max()):
            return eog[0]  # its grammar lets nothing else follow
    if params.temperature < MIN_TEMPERATURE:
        return int(logits.argmax())
    return draw_at_temperature(logits, params, uniform(params.seed, position))


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) for a position: SplitMix64 (Steele et al. 2014), its top 53 bits."""
    mixed = _mix(_mix(seed & _MASK) ^ (position * 0x9E3779B97F4A7C15 & _MASK))
    return (mixed >> 11) * 2.0**-53


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def _is_plain_greedy(draw: Draw, position: int) -> bool:
    params = draw.params
    return (
        params.temperature < MIN_TEMPERATURE
        and not params.logit_bias
        and not params.ignore_eos
        and params.repetition_penalty == 1
        and params.presence_penalty == 0
        and params.frequency_penalty == 0
        and position - draw.num_prompt_tokens >= params.min_tokens
    )


def _penalise(logits: Logits, draw: Draw) -> None:
    """A token that occurs twice is written twice, with the same value."""
    params = draw.params
    history = np.frombuffer(draw.tokens, np.int32)
    if params.repetition_penalty != 1:
        values = logits[history]
        scale = np.where(values > 0, 1 / params.repetition_penalty, params.repetition_penalty)
        logits[history] = values * scale
    if params.presence_penalty or params.frequency_penalty:
        generated = history[draw.num_prompt_tokens :]
        counts = np.bincount(generated)[generated]
        logits[generated] -= params.presence_penalty + params.frequency_penalty * counts
