"""Which prompt a step computes."""

from service.scheduler.budget import OVERTAKING, StepBudget
from service.scheduler.config import SchedulerConfig
from service.scheduler.pace import Pace
from tests.scheduler.builders import Bench, submit

STEP = 32


def bench():
    return Bench("8x2048", config=SchedulerConfig(step_tokens=STEP, growth_tokens=8))


def prompt(number, length):
    return [1000 + number] * length


def steps_until_first_token(bench, sequence_id, limit=1000):
    for count in range(1, limit):
        bench.step()
        if bench.outcomes[sequence_id].tokens:
            return count
    raise AssertionError("no token")


def test_short_prompt_is_computed_at_once_beside_a_long_one():
    for num_steps_before in (1, 10, 55):
        busy = bench()
        busy.add(submit(1, prompt(1, 60 * STEP)))
        for _ in range(num_steps_before):
            busy.step()
        busy.add(submit(2, prompt(2, STEP - 1)))
        assert steps_until_first_token(busy, 2) <= 2


def test_long_prompt_takes_no_more_than_half_as_long_again_whatever_short_ones_come():
    busy = bench()
    num_tokens = 40 * STEP
    busy.add(submit(0, prompt(0, num_tokens), max_tokens=1))
    for number in range(1, 1000):
        busy.add(submit(number, prompt(number, STEP - 1), max_tokens=1))
        busy.step()
        if busy.outcomes[0].tokens:
            break
    assert len(busy.plans) <= 40 * (1 + OVERTAKING) + 2


def test_short_prompts_go_on_while_the_long_one_does():
    busy = bench()
    busy.add(submit(0, prompt(0, 40 * STEP), max_tokens=1))
    for number in range(1, 60):
        busy.add(submit(number, prompt(number, STEP - 1), max_tokens=1))
    while not busy.outcomes[0].tokens:
        busy.step()
    answered = sum(bool(busy.outcomes[number].tokens) for number in range(1, 60))
    assert answered >= 40 * OVERTAKING / 2


def test_prompts_of_equal_length_are_computed_one_after_the_other():
    busy = bench()
    for number in (1, 2, 3):
        busy.add(submit(number, prompt(number, 2 * STEP), tenant=str(number)))
    busy.step()
    busy.step()
    assert [bool(busy.outcomes[number].tokens) for number in (1, 2, 3)] == [True, False, False]


def test_tenant_with_many_long_prompts_lets_anothers_be_computed_after_the_first():
    busy = bench()
    for number in range(1, 7):
        busy.add(submit(number, prompt(number, 10 * STEP), tenant="many", max_tokens=1))
    busy.step()
    busy.add(submit(9, prompt(9, 10 * STEP), tenant="one", max_tokens=1))
    assert steps_until_first_token(busy, 9) <= 20
    assert sum(bool(busy.outcomes[number].tokens) for number in range(1, 7)) == 1


def test_lower_priority_gets_what_a_higher_one_leaves():
    busy = bench()
    busy.add(submit(1, prompt(1, STEP // 2), priority=5))
    busy.add(submit(2, prompt(2, 2 * STEP)))
    busy.step()
    busy.step()
    assert [bool(busy.outcomes[number].tokens) for number in (1, 2)] == [False, True]


def test_what_a_shallow_prompt_leaves_is_less_for_a_deep_one():
    pace = Pace(target_seconds=0.1, max_tokens=256)
    for depth, seconds in ((0, 0.1), (3000, 0.4)) * 20:
        pace.observe(num_decode=0, num_prompt=100, seconds=seconds, depth=depth)
    budget = StepBudget(256, pace=pace, seconds=0.1)
    assert budget.take(60, depth=0, least=1) == 60
    assert budget.take(500, depth=3000, least=1) in {9, 10}


def test_step_without_running_streams_is_full():
    pace = Pace(target_seconds=0.1, max_tokens=256)
    pace.observe(num_decode=0, num_prompt=10, seconds=1.0)
    budget = StepBudget(256, pace=pace)
    assert budget.take(200, depth=0, least=0) == 200
    assert budget.take(200, depth=0, least=0) == 56
    assert budget.take(200, depth=0, least=0) == 0
