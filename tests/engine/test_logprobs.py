import numpy as np
import pytest

from service.core.plan import Draw, make_tokens
from service.core.sampling import SamplingParams
from service.engine.logprobs import KeptLogits
from service.engine.sampling import draw_tokens


def draw(num_logprobs, **params):
    return Draw(SamplingParams(**params), make_tokens([1, 2]), 1, num_logprobs)


def random_logits(rows=3, size=500):
    return np.random.default_rng(7).normal(0, 4, (rows, size)).astype(np.float32)


def softmax_logs(row):
    row = row.astype(np.float64)
    return row - np.log(np.exp(row).sum())


def test_logprobs_are_logarithms_of_the_softmax():
    logits = random_logits()
    result = KeptLogits(logits, [draw(3)] * 3).measure([5, 6, 7])
    for row, token in enumerate([5, 6, 7]):
        expected = softmax_logs(logits[row])
        assert result[row].chosen == pytest.approx(expected[token], abs=1e-5)
        best = np.argsort(-expected)[:3]
        assert [token for token, _ in result[row].top] == best.tolist()
        assert [value for _, value in result[row].top] == pytest.approx(expected[best], abs=1e-5)


def test_they_are_of_the_distribution_before_anything_is_done_to_it():
    logits = random_logits(1)
    expected = softmax_logs(logits[0])
    altered = draw(
        2,
        temperature=1.5,
        top_k=2,
        presence_penalty=2.0,
        repetition_penalty=1.5,
        logit_bias=((9, 100.0),),
        ignore_eos=True,
    )
    kept = KeptLogits(logits, [altered])
    tokens = draw_tokens(logits, [altered], [2], [0])
    assert tokens == [9]
    assert kept.measure(tokens)[0].chosen == pytest.approx(expected[9], abs=1e-5)


def test_only_rows_that_ask_have_them():
    logits = random_logits()
    result = KeptLogits(logits, [draw(None), draw(0), draw(None)]).measure([1, 2, 3])
    assert list(result) == [1]
    assert result[1].top == []


def test_extreme_logits_stay_finite():
    logits = np.array([[1e4, -1e4, 0.0]], np.float32)
    result = KeptLogits(logits, [draw(20)]).measure([1])
    assert result[0].chosen == -2e4
    assert [token for token, _ in result[0].top] == [0, 2, 1]


def test_equally_probable_tokens_come_in_order_of_id():
    logits = np.zeros((1, 500), np.float32)
    logits[0, [40, 7, 300]] = 2
    result = KeptLogits(logits, [draw(5)]).measure([1])
    assert [token for token, _ in result[0].top] == [7, 40, 300, 0, 1]
