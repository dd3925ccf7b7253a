"""The cuts that spare work are exact: what is drawn is what the definition draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.sampling import SamplingParams
from service.engine import distribution
from service.engine.distribution import (
    _find_threshold,
    _LeftOut,
    draw_at_temperature,
    find_floor,
)

NUM_TOKENS = 4000
RANDOMS = [0.0, 1e-9, 0.013, 0.25, 0.5, 0.77, 0.94, 0.95, 0.999, 1 - 1e-9, 1 - 2**-53]


def draw_by_definition(logits, params, random):
    """Every weight, wholly sorted and summed."""
    weights = np.exp((logits - logits.max()) * np.float32(1 / params.temperature))
    kept = np.full(weights.size, fill_value=True)
    if 0 < params.top_k < weights.size:
        kept = weights >= np.sort(weights)[-params.top_k]
    if params.top_p < 1:
        sorted_weights = np.sort(weights[kept])[::-1]
        mass = np.cumsum(sorted_weights, dtype=np.float64)
        target = params.top_p * weights[kept].sum(dtype=np.float64)
        kept &= weights >= sorted_weights[min(np.searchsorted(mass, target), mass.size - 1)]
    kept &= weights >= np.float32(params.min_p)
    cumulative = np.cumsum(np.where(kept, weights, 0), dtype=np.float64)
    below_all = np.nextafter(cumulative[-1], 0)
    return int(np.searchsorted(cumulative, min(random * cumulative[-1], below_all), side="right"))


def normal(rng, scale=3.0):
    return rng.normal(scale=scale, size=NUM_TOKENS)


def spread_as_a_model(rng):
    logits = normal(rng)
    logits[rng.choice(NUM_TOKENS, 200, replace=False)] = 18 - np.cumsum(rng.exponential(0.05, 200))
    return logits


def one_spike(rng):
    logits = normal(rng)
    logits[rng.integers(NUM_TOKENS)] = 60
    return logits


def with_mask(rng):
    """As a grammar leaves it: few tokens may come."""
    logits = np.full(NUM_TOKENS, -np.inf)
    logits[rng.choice(NUM_TOKENS, 12, replace=False)] = rng.normal(scale=4, size=12)
    return logits


def with_one_allowed(rng):
    logits = np.full(NUM_TOKENS, -np.inf)
    logits[rng.integers(NUM_TOKENS)] = -7
    return logits


def beside_the_cut(rng):
    """Much of the mass, in tokens hardly heavier or lighter than what the bounds leave out."""
    logits = rng.normal(loc=-15.2, scale=1e-3, size=NUM_TOKENS)
    logits[:3] = 0, -1, -1
    return logits


DISTRIBUTIONS = {
    "normal": normal,
    "model": spread_as_a_model,
    "flat": lambda rng: np.full(NUM_TOKENS, rng.normal()),
    "ties": lambda rng: rng.integers(-8, 8, NUM_TOKENS),
    "halving": lambda rng: -np.log(2) * rng.permutation(NUM_TOKENS),
    "spike": one_spike,
    "heavy tail": lambda rng: -1.1 * np.log1p(rng.permutation(NUM_TOKENS)),
    "mask": with_mask,
    "one allowed": with_one_allowed,
    "beside the cut": beside_the_cut,
    "large": lambda rng: 1e4 + spread_as_a_model(rng),
    "extreme": lambda rng: normal(rng, scale=1e4),
}

rules = st.builds(
    SamplingParams,
    temperature=st.sampled_from([1e-4, 0.01, 0.05, 0.2, 0.6, 1.0, 2.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 40, 124, 126, NUM_TOKENS - 1, NUM_TOKENS, NUM_TOKENS + 1]),
    top_p=st.sampled_from([1.0, 1.0, 1e-6, 0.3, 0.5, 0.95, 0.99999, 0.9999999999]),
    min_p=st.sampled_from([0.0, 0.0, 1e-9, 0.05, 0.5, 1.0]),
)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@settings(max_examples=150, deadline=None)
@given(rules, st.integers(0, 2**32), st.sampled_from(RANDOMS) | st.floats(0, 1, exclude_max=True))
def test_draw_is_the_one_by_definition(name, params, seed, random):
    logits = DISTRIBUTIONS[name](np.random.default_rng(seed)).astype(np.float32)
    expected = draw_by_definition(logits, params, random)
    assert draw_at_temperature(logits, params, random) == expected


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.floats(-200, 200, width=32) | st.sampled_from([-np.inf, 0.0, 1.0]), min_size=1
    ).filter(lambda values: max(values) > -np.inf),
    st.integers(1, 30),
    rules,
    st.sampled_from(RANDOMS),
)
def test_draw_from_few_tokens_among_unlikely_ones_is_the_one_by_definition(
    values, spacing, params, random
):
    """Whatever the few are, so many lie far below that the cuts are taken."""
    logits = np.full(len(values) * spacing + 1, min(max(values), 0) - 300, np.float32)
    logits[: len(values) * spacing : spacing] = values
    expected = draw_by_definition(logits, params, random)
    assert draw_at_temperature(logits, params, random) == expected


@pytest.mark.parametrize("tail", [-15.21, -40])
def test_draw_from_a_crowd_that_the_left_out_may_decide_between_is_the_one_by_definition(tail):
    """Its tokens weigh about what the bound on the left out is, which is near, or far too high."""
    rng = np.random.default_rng(5)
    logits = np.full(NUM_TOKENS, tail, np.float32)
    logits[rng.choice(NUM_TOKENS, 400, replace=False)] = -rng.uniform(5, 9, 400)
    logits[rng.integers(NUM_TOKENS)] = 0
    for random in rng.random(1000):
        for params in (SamplingParams(), SamplingParams(top_p=1 - random / 10)):
            expected = draw_by_definition(logits, params, random)
            assert draw_at_temperature(logits.copy(), params, random) == expected


def count_whole_rows(monkeypatch, logits, params) -> tuple[int, int]:
    """How many of some draws weighed every token, and how many there were."""
    sizes: list[int] = []
    weigh = distribution._weigh

    def counting(logits, highest, scale):
        sizes.append(logits.size)
        return weigh(logits, highest, scale)

    with monkeypatch.context() as patch:
        patch.setattr(distribution, "_weigh", counting)
        randoms = np.linspace(0, 1, 100, endpoint=False)
        for random in randoms:
            draw_at_temperature(logits.copy(), params, float(random))
    return sizes.count(logits.size), len(randoms)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.6),
        SamplingParams(temperature=0.6, top_p=0.95),
        SamplingParams(temperature=1, top_k=40),
        SamplingParams(temperature=1, top_k=40, top_p=0.9, min_p=0.01),
        SamplingParams(temperature=1, min_p=0.05),
    ],
)
def test_few_draws_weigh_the_whole_vocabulary(monkeypatch, params):
    logits = spread_as_a_model(np.random.default_rng(3)).astype(np.float32)
    num_whole, num_draws = count_whole_rows(monkeypatch, logits, params)
    assert num_whole <= num_draws / 5


def test_draws_that_the_left_out_may_change_weigh_the_whole_vocabulary(monkeypatch):
    logits = beside_the_cut(np.random.default_rng(0)).astype(np.float32)
    params = SamplingParams(temperature=1, top_p=0.99999)
    num_whole, num_draws = count_whole_rows(monkeypatch, logits, params)
    assert num_whole == num_draws


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(top_k=3),
        SamplingParams(top_k=3, min_p=0.5),
        SamplingParams(top_p=0.9),
        SamplingParams(min_p=0.21),
    ],
)
def test_threshold_that_a_token_left_out_may_reach_is_uncertain(params):
    weights = np.array([1, 0.5, 0.25], np.float32)
    assert _find_threshold(weights, params, _LeftOut(heaviest=0.2, mass=0.0)) is not None
    assert _find_threshold(weights, params, _LeftOut(heaviest=0.25, mass=0.0)) is None


@given(st.integers(0, 2**32), st.integers(1, 124))
def test_floor_is_reached_by_at_least_so_many(seed, count):
    logits = DISTRIBUTIONS["ties"](np.random.default_rng(seed)).astype(np.float32)
    assert np.count_nonzero(logits >= find_floor(logits, count)) >= count


def test_floor_of_more_than_there_are_groups_is_reached_by_all():
    assert find_floor(np.zeros(64, np.float32), 3) == -np.inf
