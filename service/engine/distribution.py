"""One row's distribution: softmax at a temperature, cut to its candidates, inverted at a number.

Most of a vocabulary is never drawn. So tokens below a cut of the logits are left out before
anything is exponentiated, sorted or summed, where that provably changes nothing; else the whole row
decides. Which of both did never shows: the token is the same.

Proof. A token's weight is exp((logit - highest) / temperature). No token left out weighs more than
`heaviest`, the weight at the cut, raised by more than exp is off; together they weigh at most
`mass`. Z is the weight of the kept ones, so that the weight of all is between Z and Z + mass.

- top_k: at least top_k tokens are kept. If the k-th heaviest of them outweighs `heaviest`, it is
  the k-th of all, and all that weigh as much are kept. What follows concerns these alone.
- top_p: the weight of the lightest token in the nucleus falls as the mass asked for grows. So if
  top_p * Z and top_p * (Z + mass), both at most Z, lead to the same weight, all between do; and if
  that is more than `heaviest`, nothing left out is in the nucleus or weighs the same.
- min_p asks for a weight. Nothing left out has it if it is more than `heaviest`.
- None of these: drawn is the first token, in order of id, up to which all together weigh more than
  random * (the weight of all). Let K be what the kept ones up to a token weigh; all up to it weigh
  between K and K + mass. So the first kept token with K > random * (Z + mass) is the drawn one or
  comes after it, and it is the drawn one if K + mass <= random * Z for the kept token before it.
- Where `heaviest` is 0, no token left out can be drawn, and none counts in a sum.

Sums are rounded, so their bounds are widened by `_ROUNDING`; what is closer, the whole row decides.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.core.sampling import SamplingParams

Logits = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float32]

_GROUP = 32
"""Tokens of which `find_floor` looks at the best alone."""
_MASS = 1e-3
"""Where no rule names a cut, at most so many times the heaviest token's weight is left out. Of
SmolLM2's draws at 0.6 that makes 1 in 14 to 24 uncertain; 1e-5 makes few, but keeps many tokens."""
_VANISHED = 110
"""exp(-110) is 0 in 32 bits."""
_MARGIN = 1e-4
"""Cuts are lower than rules ask by this, in the exponent: more than rounding can move a weight."""
_DENSE = 8
"""Where more than one in so many tokens is left, picking them out costs more than it spares."""
_ROUNDING = 1e-12
_BLOCK = 256
"""Tokens summed at once when the whole vocabulary is a candidate."""


@dataclass(frozen=True, slots=True)
class _LeftOut:
    heaviest: float
    mass: float


_NOTHING = _LeftOut(0.0, 0.0)


def draw_at_temperature(logits: Logits, params: SamplingParams, random: float) -> int:
    """The token at `random`, in [0, 1), of what temperature, top_k, top_p and min_p leave.

    May overwrite the logits.
    """
    highest = logits.max()
    scale = np.float32(1 / params.temperature)
    cut = _find_cut(logits, params, float(highest))
    is_kept = logits >= cut
    num_kept = np.count_nonzero(is_kept)
    if 0 < num_kept <= logits.size // _DENSE:
        kept = np.flatnonzero(is_kept)
        weights = _weigh(logits[kept], highest, scale)
        heaviest = float(np.exp((cut - highest) * scale)) * (1 + 1e-5)
        left_out = _LeftOut(heaviest, heaviest * (logits.size - num_kept))
        drawn = _draw(weights, params, random, left_out)
        if drawn is not None:
            return int(kept[drawn])
    drawn = _draw(_weigh(logits, highest, scale), params, random, _NOTHING)
    assert drawn is not None
    return drawn


def find_floor(logits: Logits, count: int) -> np.float32:
    """A value that at least `count` logits reach, near the count-th largest; -inf if too many.

    Each group's best is one of its tokens, so `count` of the groups' bests are as many tokens.
    """
    num_groups = logits.size // _GROUP
    if count > num_groups:
        return np.float32(-np.inf)
    groups = logits[: num_groups * _GROUP].reshape(_GROUP, num_groups)
    return np.partition(groups.max(axis=0), -count)[-count]


def _find_cut(logits: Logits, params: SamplingParams, highest: float) -> np.float32:
    """What a logit must reach to be kept."""
    temperature = params.temperature
    if params.top_k > 0:
        bound = max(float(find_floor(logits, params.top_k)), highest - temperature * _VANISHED)
    elif params.top_p >= 1 and params.min_p > 0:
        bound = highest + temperature * math.log(params.min_p)
    else:
        bound = highest - temperature * math.log(logits.size / _MASS)
    return np.float32(bound - temperature * _MARGIN - 1e-6 * abs(highest))


def _weigh(logits: Logits, highest: np.float32, scale: np.float32) -> Weights:
    """Their weights, in their place: probabilities up to a factor, the heaviest is 1."""
    np.subtract(logits, highest, out=logits)
    np.multiply(logits, scale, out=logits)
    return np.exp(logits, out=logits)


def _draw(
    weights: Weights, params: SamplingParams, random: float, left_out: _LeftOut
) -> int | None:
    """The index drawn; None if what is left out may matter."""
    if params.top_k == 0 and params.top_p >= 1 and params.min_p == 0:
        if left_out is _NOTHING:
            return _invert_all(weights, random)
        return _invert_kept(weights, random, left_out.mass)
    threshold = _find_threshold(weights, params, left_out)
    if threshold is None:
        return None
    candidates = np.flatnonzero(weights >= threshold)
    cumulative = np.cumsum(weights[candidates], dtype=np.float64)
    return int(candidates[_invert(cumulative, random * cumulative[-1])])


def _find_threshold(
    weights: Weights, params: SamplingParams, left_out: _LeftOut
) -> np.float32 | None:
    """The least weight that top_k, then top_p, then min_p leave; None if it is uncertain."""
    threshold = np.float32(params.min_p)
    left, mass = weights, left_out.mass
    if 0 < params.top_k <= weights.size:
        kth = np.partition(weights, -params.top_k)[-params.top_k]
        if 0 < left_out.heaviest >= kth:
            return None
        threshold = max(threshold, kth)
        left, mass = weights[weights >= kth], 0.0
    if params.top_p < 1:
        lightest = _nucleus_threshold(left, params.top_p, mass)
        if lightest is None:
            return None
        threshold = max(threshold, lightest)
    return None if 0 < left_out.heaviest >= threshold else threshold


def _nucleus_threshold(weights: Weights, top_p: float, mass: float) -> np.float32 | None:
    """The least weight in the smallest set of heaviest tokens with `top_p` of the mass.

    `mass` bounds what is not in `weights`; None if that makes a difference.

    Sorts only tokens above a cut that is lowered until they hold enough mass. That is exact: tokens
    above the cut are heavier than all below it, so once their mass suffices the set is among them.
    """
    total = float(weights.sum(dtype=np.float64))
    rounding = _ROUNDING if mass else 0.0
    least, most = top_p * total * (1 - rounding), top_p * (total + mass) * (1 + rounding)
    if most > total:
        return None
    heavy = weights
    for cut in (1e-2, 1e-4):
        heaviest = weights[weights >= cut]
        if heaviest.sum(dtype=np.float64) >= most:
            heavy = heaviest
            break
    heavy = np.sort(heavy)[::-1]
    cumulative = np.cumsum(heavy, dtype=np.float64)
    ends = np.minimum(np.searchsorted(cumulative, (least, most)), heavy.size - 1)
    first, last = heavy[ends]
    return last if first == last else None


def _invert_kept(weights: Weights, random: float, mass: float) -> int | None:
    """Invert the cumulative distribution; None if others, of `mass` at most, may be drawn."""
    cumulative = np.cumsum(weights, dtype=np.float64)
    total = float(cumulative[-1])
    most = random * (total + mass) * (1 + _ROUNDING)
    index = int(np.searchsorted(cumulative, most, side="right"))
    before = float(cumulative[index - 1]) if index else 0.0
    if index == cumulative.size or before + mass > random * total * (1 - _ROUNDING):
        return None
    return index


def _invert_all(weights: Weights, random: float) -> int:
    """Invert the cumulative distribution of all tokens: find the block, then the token in it."""
    num_whole = weights.size // _BLOCK
    end = num_whole * _BLOCK
    sums = np.empty(num_whole + 1)
    weights[:end].reshape(-1, _BLOCK).sum(axis=1, dtype=np.float64, out=sums[:-1])
    sums[-1] = weights[end:].sum(dtype=np.float64)
    cumulative = np.cumsum(sums)
    target = random * cumulative[-1]
    block = _invert(cumulative, target)
    before = cumulative[block - 1] if block else 0.0
    within = np.cumsum(weights[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.float64)
    return block * _BLOCK + _invert(within, target - before)


def _invert(cumulative: npt.NDArray[np.float64], target: float) -> int:
    """The first index whose cumulative weight exceeds `target`; its own weight is then positive."""
    below_all = np.nextafter(cumulative[-1], 0.0)
    return int(np.searchsorted(cumulative, min(target, below_all), side="right"))
