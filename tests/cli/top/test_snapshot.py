import math

import pytest

from service.cli.top.snapshot import Change, read_snapshot
from service.errors import MetricsUnavailable


def snapshot(time, **values):
    """Of a counter with a label, by its values."""
    lines = [f'smolserve_things_total{{kind="{kind}"}} {value}' for kind, value in values.items()]
    return read_snapshot("# TYPE smolserve_things counter\n" + "\n".join(lines) + "\n", time)


def test_series_are_summed_and_grouped():
    now = snapshot(0, a=1, b=2)
    assert now.total("things_total") == 3
    assert now.total("things_total", kind="b") == 2
    assert now.by("kind", "things_total") == {"a": 1, "b": 2}


def test_what_is_not_told_is_nothing():
    now = snapshot(0, a=1)
    assert now.total("others_total") == 0
    assert now.by("kind", "others_total") == {}


def test_a_rate_is_by_the_time_between_looks():
    change = Change(snapshot(10, a=1, b=5), snapshot(14, a=9, b=5))
    assert change.rate("things_total") == 2
    assert change.increase_by("kind", "things_total") == {"a": 8, "b": 0}


def test_a_series_that_is_new_began_at_0():
    assert Change(snapshot(0, a=1), snapshot(1, a=1, b=4)).increase("things_total") == 4


def test_a_counter_that_fell_began_anew_and_the_others_did_not():
    change = Change(snapshot(0, a=100, b=10), snapshot(1, a=7, b=12))
    assert change.increase_by("kind", "things_total") == {"a": 7, "b": 2}


def test_buckets_are_those_of_the_time_between():
    def histogram(time, low, high):
        return read_snapshot(
            "# TYPE smolserve_wait_seconds histogram\n"
            f'smolserve_wait_seconds_bucket{{le="0.5"}} {low}\n'
            f'smolserve_wait_seconds_bucket{{le="+Inf"}} {high}\n',
            time,
        )

    change = Change(histogram(0, 3, 4), histogram(1, 5, 9))
    assert change.buckets("wait_seconds") == {0.5: 2, math.inf: 5}


@pytest.mark.parametrize("text", ["", "<html>", "# TYPE up gauge\nup 1\n", "}{"])
def test_what_is_no_smolserves_is_refused(text):
    with pytest.raises(MetricsUnavailable):
        read_snapshot(text, 0)
