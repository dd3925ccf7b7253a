"""Quantiles from a histogram's buckets, as Prometheus' histogram_quantile estimates them."""

import math
from collections.abc import Mapping
from itertools import pairwise


def estimate_quantile(quantile: float, counts: Mapping[float, float]) -> float | None:
    """`counts` are cumulative by their buckets' upper bounds, the last of which is infinite.

    None without an observation. A quantile in the last bucket is the bound below it, since nothing
    is known of what is above; within any other, observations are taken to lie evenly.
    """
    total = counts.get(math.inf, 0)
    if total <= 0:
        return None
    rank = quantile * total
    for (lower, below), (upper, count) in pairwise([(0.0, 0.0), *sorted(counts.items())]):
        if count >= rank:
            if math.isinf(upper):
                return lower
            within = count - below
            return lower + (upper - lower) * ((rank - below) / within if within else 0.0)
    return None
