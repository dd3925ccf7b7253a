"""Drawing tokens from logits.

The draw is a pure function of (logits, seed, position): a sequence that was preempted, moved or
replayed continues as it would have. Random numbers come from a counter-based generator (SplitMix64
over seed and position), and the draw inverts the cumulative distribution in order of token id,
which a small change of the logits disturbs little.
"""

import numpy as np
import numpy.typing as npt

from service.core.plan import Draw
from service.core.sampling import SamplingParams

Logits = npt.NDArray[np.float32]

MIN_TEMPERATURE = 1e-4
"""Below it the draw is greedy: weights of all but the best token would underflow."""

_MASK = (1 << 64) - 1
_BLOCK = 256
"""Tokens summed at once when the whole vocabulary is a candidate."""


def draw_tokens(
    logits: Logits, draws: list[Draw], positions: list[int], eog: list[int]
) -> list[int]:
    """One token for each row of `logits` (rows, vocabulary), which it may overwrite.

    `positions[i]` is where row i's token will stand in its sequence.
    """
    if all(
        _is_plain_greedy(draw, position) for draw, position in zip(draws, positions, strict=True)
    ):
        return logits.argmax(axis=1).tolist()
    return [
        draw_token(row, draw, position, eog)
        for row, draw, position in zip(logits, draws, positions, strict=True)
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
    return _draw_at_temperature(logits, params, uniform(params.seed, position))


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
    params = draw.params
    history = np.frombuffer(draw.tokens, np.int32)
    if params.repetition_penalty != 1:
        seen = np.unique(history)
        values = logits[seen]
        scale = np.where(values > 0, 1 / params.repetition_penalty, params.repetition_penalty)
        logits[seen] = values * scale
    if params.presence_penalty or params.frequency_penalty:
        seen, counts = np.unique(history[draw.num_prompt_tokens :], return_counts=True)
        logits[seen] -= params.presence_penalty + params.frequency_penalty * counts


def _draw_at_temperature(logits: Logits, params: SamplingParams, random: float) -> int:
    """Softmax at a temperature, cut to its candidates, inverted at `random`."""
    weights = np.exp((logits - logits.max()) * np.float32(1 / params.temperature))
    if params.top_k == 0 and params.top_p >= 1 and params.min_p == 0:
        return _invert_all(weights, random)
    candidates = _cut(weights, params)
    cumulative = np.cumsum(weights[candidates], dtype=np.float64)
    return int(candidates[_invert(cumulative, random * cumulative[-1])])


def _cut(weights: Logits, params: SamplingParams) -> npt.NDArray[np.intp]:
    """Ids, ascending, of the tokens that top_k, then top_p, then min_p leave.

    `weights` are probabilities up to a factor, the largest is 1.
    """
    threshold = np.float32(params.min_p)
    left = weights
    if 0 < params.top_k < weights.size:
        threshold = max(threshold, np.partition(weights, -params.top_k)[-params.top_k])
        left = weights[weights >= threshold]
    if params.top_p < 1:
        threshold = max(threshold, _nucleus_threshold(left, params.top_p))
    return np.flatnonzero(weights >= threshold)


def _nucleus_threshold(weights: Logits, top_p: float) -> np.float32:
    """The least weight in the smallest set of heaviest tokens with `top_p` of the mass.

    Sorts only tokens above a cut that is lowered until they hold enough mass. That is exact: tokens
    above the cut are heavier than all below it, so once their mass suffices the set is among them.
    """
    target = top_p * float(weights.sum(dtype=np.float64))
    for cut in (1e-2, 1e-4, 0.0):
        heavy = weights[weights >= cut]
        if heavy.sum(dtype=np.float64) >= target or cut == 0:
            break
    heavy = np.sort(heavy)[::-1]
    cumulative = np.cumsum(heavy, dtype=np.float64)
    return heavy[min(int(np.searchsorted(cumulative, target)), heavy.size - 1)]


def _invert_all(weights: Logits, random: float) -> int:
    """Invert the cumulative distribution of all tokens: find the block, then the token in it."""
    padded = np.zeros(-(-weights.size // _BLOCK) * _BLOCK, np.float32)
    padded[: weights.size] = weights
    blocks = padded.reshape(-1, _BLOCK)
    cumulative = np.cumsum(blocks.sum(axis=1, dtype=np.float64))
    target = random * cumulative[-1]
    block = _invert(cumulative, target)
    before = cumulative[block - 1] if block else 0.0
    within = np.cumsum(blocks[block], dtype=np.float64)
    return block * _BLOCK + _invert(within, target - before)


def _invert(cumulative: npt.NDArray[np.float64], target: float) -> int:
    """The first index whose cumulative weight exceeds `target`; its own weight is then positive."""
    below_all = np.nextafter(cumulative[-1], 0.0)
    return int(np.searchsorted(cumulative, min(target, below_all), side="right"))
