"""Who is served first."""

from tests.scheduler.builders import Bench, submit


def prompt(number, length=8):
    return list(range(1000 * number, 1000 * number + length))


def started(bench):
    return {sequence.id for sequence in bench.scheduler.running}


def test_higher_priority_is_admitted_first():
    bench = Bench("1x64")
    bench.add(submit(1, prompt(1), max_tokens=4, priority=-9))
    bench.step()
    for sequence_id, priority in ((2, 5), (3, 0), (4, -5)):
        bench.add(submit(sequence_id, prompt(sequence_id), max_tokens=40, priority=priority))
    while bench.outcomes[1].finish_reason is None:
        bench.step()
    bench.step()
    assert started(bench) == {4}


def test_running_sequence_gives_way_to_a_higher_priority_within_a_step_and_loses_nothing():
    bench = Bench("1x64")
    low = submit(1, prompt(1), max_tokens=30, priority=100)
    bench.add(low)
    for _ in range(5):
        bench.step()
    bench.add(submit(2, prompt(2), max_tokens=3))
    bench.step()
    assert started(bench) == {2}
    assert bench.scheduler.num_preemptions == 1
    bench.run()
    assert bench.outcomes[1] == bench.undisturbed(low, 64)


def test_idle_slot_is_used_before_anyone_gives_way():
    bench = Bench("2x64")
    bench.add(submit(1, prompt(1), max_tokens=30, priority=100))
    bench.step()
    bench.add(submit(2, prompt(2), max_tokens=3))
    bench.step()
    assert started(bench) == {1, 2}


def test_sequences_of_the_same_priority_never_give_way():
    bench = Bench("1x64")
    bench.add(submit(1, prompt(1), max_tokens=30, priority=3))
    bench.step()
    bench.add(submit(2, prompt(2), max_tokens=3, priority=3))
    bench.step()
    assert started(bench) == {1}


def test_who_has_waited_long_enough_is_served_before_a_higher_priority():
    bench = Bench("1x64")
    bench.add(submit(1, prompt(1), max_tokens=2, priority=-50))
    bench.step()
    bench.add(submit(2, prompt(2), max_tokens=30, priority=10))
    bench.store.now += 11
    bench.add(submit(3, prompt(3), max_tokens=30, priority=0))
    while bench.outcomes[1].finish_reason is None:
        bench.step()
    bench.step()
    assert started(bench) == {2}


def test_latest_of_the_lowest_gives_way():
    bench = Bench("3x64")
    for sequence_id, priority in ((1, 5), (2, 9), (3, 9)):
        bench.store.now += 0.1
        bench.add(submit(sequence_id, prompt(sequence_id), max_tokens=40, priority=priority))
        bench.step()
    bench.add(submit(4, prompt(4), max_tokens=4))
    bench.step()
    assert started(bench) == {1, 2, 4}


def test_nobody_gives_way_to_one_that_would_wait_for_a_prefix():
    bench = Bench("4x256")
    for sequence_id in (1, 2, 3, 4):
        bench.add(submit(sequence_id, prompt(sequence_id), max_tokens=60, priority=9))
    for _ in range(4):
        bench.step()
    shared = prompt(7, 150)
    for sequence_id in (5, 6, 7):
        bench.add(submit(sequence_id, [*shared, sequence_id], max_tokens=4))
    bench.step()
    assert len(started(bench)) == 4
    assert bench.scheduler.num_preemptions == 1


def test_those_who_share_a_prefix_do_not_hold_up_the_others():
    bench = Bench("4x256")
    shared = prompt(7, 150)
    for sequence_id in range(1, 12):
        bench.add(submit(sequence_id, [*shared, sequence_id], max_tokens=4))
    for sequence_id in (20, 21):
        bench.add(submit(sequence_id, prompt(sequence_id), max_tokens=4))
    for _ in range(4):
        bench.step()
    assert {20, 21} <= started(bench)
