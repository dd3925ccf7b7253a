from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.plan import Draw, make_tokens
from service.core.sampling import SamplingParams
from service.engine.sampling import draw_token, draw_tokens, uniform

EOG = [2]


def draw(prompt: tuple[int, ...] = (), output: tuple[int, ...] = (), **params) -> Draw:
    return Draw(SamplingParams(**params), make_tokens([*prompt, *output]), len(prompt))


def logits(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def frequencies(values: np.ndarray, count: int = 4000, **params) -> np.ndarray:
    """How often each token is drawn over as many positions."""
    drawn = Counter(
        draw_token(values.copy(), draw(seed=7, **params), position, EOG)
        for position in range(count)
    )
    return np.array([drawn[token] / count for token in range(values.size)])


def softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values - values.max())
    return weights / weights.sum()


def test_temperature_zero_takes_the_most_probable_token():
    assert draw_token(logits(0, 3, 1), draw(temperature=0), 5, EOG) == 1


def test_draw_depends_on_logits_seed_and_position_only():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    request = draw(temperature=1.0, seed=42)
    alone = [draw_token(values.copy(), request, position, EOG) for position in range(50)]
    batched = [
        draw_tokens(np.stack([values, values]), [request, draw(seed=1)], [position, 3], EOG)[0]
        for position in range(50)
    ]
    assert alone == batched
    assert len(set(alone)) > 10


def test_rows_of_a_mixed_batch_are_drawn_as_each_alone():
    requests = [
        draw(temperature=0),
        draw(temperature=0.6, top_p=0.95, seed=9),
        draw(temperature=0, min_tokens=90),
        draw(temperature=0),
        draw(temperature=1.0, top_k=5, seed=4),
        draw((3,), (4, 4), temperature=0, frequency_penalty=1.0, repetition_penalty=1.2),
    ]
    rows = np.random.default_rng(2).normal(scale=3, size=(6, 3000)).astype(np.float32)
    rows[:, EOG] = 30
    alone = [
        draw_token(row.copy(), request, 80, EOG)
        for row, request in zip(rows, requests, strict=True)
    ]
    assert draw_tokens(rows.copy(), requests, [80] * 6, EOG) == alone
    assert alone[0] == alone[3] == EOG[0] != alone[2]


def test_small_change_of_the_logits_rarely_changes_the_draw():
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    noise = np.random.default_rng(1).normal(scale=1e-3, size=5000).astype(np.float32)
    changed = sum(
        draw_token(values.copy(), draw(seed=3), position, EOG)
        != draw_token(values + noise, draw(seed=3), position, EOG)
        for position in range(300)
    )
    assert changed <= 15


def test_draws_follow_the_distribution():
    values = logits(0, 1, 2, -1)
    assert frequencies(values) == pytest.approx(softmax(values), abs=0.03)


def test_temperature_flattens_and_sharpens():
    values = logits(0, 1, 2, -1)
    assert frequencies(values, temperature=2.0) == pytest.approx(softmax(values / 2), abs=0.03)


def test_top_k_keeps_the_k_most_probable():
    kept = frequencies(logits(0, 1, 2, -1), top_k=2)
    assert kept[[0, 3]].sum() == 0
    assert kept[[1, 2]] == pytest.approx(softmax(logits(1, 2)), abs=0.03)


def test_min_p_drops_what_is_much_less_probable_than_the_best():
    kept = frequencies(logits(0, 1, 2, -1), min_p=0.3)
    assert np.flatnonzero(kept).tolist() == [1, 2]


def test_top_p_applies_to_what_top_k_left():
    # Of the two kept tokens the first has 0.73 of the mass, more than 0.7.
    kept = frequencies(logits(3, 2, 1.9, 1.9), top_k=2, top_p=0.7)
    assert np.flatnonzero(kept).tolist() == [0]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=400),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32),
)
def test_top_p_draws_only_from_the_smallest_set_that_reaches_it(values, top_p, position):
    """Exactness of the cut that spares sorting the vocabulary."""
    row = np.array(values, np.float32)
    token = draw_token(row.copy(), draw(top_p=top_p), position, [])
    weights = np.exp(row - row.max()).astype(np.float64)
    heavier = weights[weights > weights[token]].sum() / weights.sum()
    assert heavier < top_p + 1e-6


def test_presence_penalty_counts_a_generated_token_once():
    request = draw((0,), (1, 1), temperature=0, presence_penalty=0.6)
    assert draw_token(logits(0, 0.5, 0.0), request, 3, EOG) == 0
    assert draw_token(logits(-1, 0.5, -0.2), request, 3, EOG) == 1


def test_frequency_penalty_counts_each_occurrence():
    request = draw((0,), (1, 1), temperature=0, frequency_penalty=0.3)
    assert draw_token(logits(-1, 0.5, -0.2), request, 3, EOG) == 1
    assert draw_token(logits(-1, 0.5, -0.05), request, 3, EOG) == 2


def test_presence_and_frequency_penalties_spare_the_prompt():
    request = draw((1, 1, 1), (), temperature=0, presence_penalty=2.0, frequency_penalty=2.0)
    assert draw_token(logits(0, 0.5, 0), request, 3, EOG) == 1


def test_repetition_penalty_covers_the_prompt_and_moves_both_signs_down():
    request = draw((0, 1), (), temperature=0, repetition_penalty=2.0)
    assert draw_token(logits(1.0, -0.2, 0.6), request, 2, EOG) == 2
    assert draw_token(logits(-0.5, -0.2, -0.45), request, 2, EOG) == 1


def test_repetition_penalty_counts_a_repeated_token_once():
    request = draw((0, 0), (0,), temperature=0, repetition_penalty=2.0)
    assert draw_token(logits(1.0, 0.4), request, 3, EOG) == 0


def test_logit_bias_bans_and_forces():
    assert draw_token(logits(0, 3, 1), draw(temperature=0, logit_bias=((1, -100.0),)), 5, EOG) == 2
    assert draw_token(logits(0, 3, 1), draw(temperature=0, logit_bias=((0, 100.0),)), 5, EOG) == 0


def test_ignore_eos_never_draws_the_end():
    assert frequencies(logits(0, 0, 50), ignore_eos=True)[2] == 0
    assert draw_token(logits(0, 1, 50), draw(temperature=0, ignore_eos=True), 5, EOG) == 1


def test_min_tokens_forbids_the_end_until_enough_are_generated():
    request = draw((5, 6), (), temperature=0, min_tokens=2)
    assert [draw_token(logits(0, 1, 50), request, position, EOG) for position in (2, 3, 4)] == [
        1,
        1,
        2,
    ]


def test_uniform_is_in_range_and_differs_by_seed_and_position():
    values = [uniform(seed, position) for seed in range(30) for position in range(30)]
    assert all(0 <= value < 1 for value in values)
    assert len(set(values)) == 900
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)
