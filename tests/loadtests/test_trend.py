import random

from loadtests.soak.trend import find_growth, split_lives


def test_what_stays_level_has_no_growth_however_it_begins():
    warming_up = [float(n) for n in range(25)]
    assert find_growth([*warming_up, *[25.0] * 75]) == 0


def test_a_leak_shows_as_what_it_adds_in_half_of_the_time():
    assert find_growth([0.5 * n for n in range(400)]) == 100


def test_bursts_are_not_growth():
    chance = random.Random(1)
    level = [100 + chance.gauss(0, 1) for _ in range(400)]
    for place in chance.sample(range(400), 60):
        level[place] += 1000
    assert abs(find_growth(level)) < 1


def test_what_falls_has_negative_growth():
    assert find_growth([-float(n) for n in range(100)]) == -50


def test_each_process_has_a_series_of_its_own():
    pids = [7, 7, 9, 9, 9]
    assert split_lives(pids, [1.0, 2.0, 0.5, 0.6, 0.7]) == [[1.0, 2.0], [0.5, 0.6, 0.7]]


def test_processes_beside_each_other_are_told_apart():
    assert split_lives([1, 2, 1, 2], [1.0, 20.0, 1.1, 20.1]) == [[1.0, 1.1], [20.0, 20.1]]
