import math

import pytest

from service.cli.top.quantile import estimate_quantile

BUCKETS = {0.1: 10, 0.5: 30, 1.0: 40, math.inf: 40}


@pytest.mark.parametrize(
    ("quantile", "expected"),
    # As Prometheus' histogram_quantile gives them for these buckets.
    [(0.0, 0.0), (0.125, 0.05), (0.25, 0.1), (0.5, 0.3), (0.75, 0.5), (0.875, 0.75), (1.0, 1.0)],
)
def test_observations_lie_evenly_within_a_bucket(quantile, expected):
    assert estimate_quantile(quantile, BUCKETS) == pytest.approx(expected)


def test_what_is_above_all_bounds_is_told_as_the_highest():
    assert estimate_quantile(0.99, {0.1: 1, 0.5: 1, math.inf: 10}) == 0.5


def test_empty_buckets_below_are_passed_over():
    assert estimate_quantile(0.5, {0.1: 0, 0.5: 0, 1.0: 4, math.inf: 4}) == 0.75


@pytest.mark.parametrize("counts", [{}, {0.1: 0, math.inf: 0}])
def test_nothing_observed_has_no_quantile(counts):
    assert estimate_quantile(0.5, counts) is None
