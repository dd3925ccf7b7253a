import pytest

from loadtests.ceiling import DEFAULTS, list_ways, summarise, write_table


@pytest.mark.parametrize("cores", [1, 2, 4, 8, 12])
def test_ways_have_names_of_their_own_and_begin_with_the_defaults(cores):
    names = [way.name for way in list_ways(cores)]
    assert names[0] == DEFAULTS
    assert len(set(names)) == len(names)
    assert all(way.threads <= cores for way in list_ways(cores))


def test_all_thread_counts_are_tried_where_there_are_few_cores():
    names = [way.name for way in list_ways(4)]
    assert [name for name in names if name.startswith("threads")] == [
        "threads 1",
        "threads 2",
        "threads 3",
    ]


def test_ratios_are_to_the_defaults_of_the_same_round():
    rounds = [
        {DEFAULTS: {"decode": 100.0}, "fused": {"decode": 50.0}},
        {DEFAULTS: {"decode": 10.0}, "fused": {"decode": 5.0}},
        {DEFAULTS: {"decode": 40.0}, "fused": {"decode": 60.0}},
    ]
    summary = summarise(rounds)
    assert summary["fused"]["decode"] == {"tokens_per_second": 50.0, "ratio": 0.5}
    assert write_table(summary).splitlines() == [
        "| tokens per second | decode |",
        "|---|---:|",
        "| defaults | 40 |",
        "| fused | 50 (50%) |",
    ]
