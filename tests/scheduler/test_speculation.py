"""Guesses make answers faster where they are right, and never another answer."""

from typing import Any

import pytest

from service.core.plan import make_tokens
from service.core.request import Constraint, ThinkingBudget
from service.core.sampling import SamplingParams
from service.kvcache.costs import Costs
from service.scheduler.config import SchedulerConfig
from service.scheduler.decode_cost import DecodeCost
from service.scheduler.drafter import MAX_FOLLOWED, Drafter
from tests.scheduler.builders import Bench, submit

PROMPT = [5, 6, 7, 8]
CHEAP_ROWS = 1e-4
"""Of a pass, as on a GPU."""


def make_bench(classes="4x64", *, row_cost=CHEAP_ROWS, num_vocab=49152, **options):
    config = SchedulerConfig(
        **{"step_tokens": 32, "target_itl_seconds": 9.0, "growth_tokens": 8} | options
    )
    return Bench(
        classes, config=config, num_vocab=num_vocab, step_seconds=1.0, row_seconds=row_cost
    )


def answer_of(bench, prompt=PROMPT, max_tokens=30):
    return bench.undisturbed(submit(0, prompt, max_tokens=max_tokens), 64).tokens


def predict(bench, sequence_id=1, prompt=PROMPT, *, prediction=None, **given):
    """A request with a prediction, the right one if no other is given."""
    options: dict[str, Any] = {"max_tokens": 30} | given
    if prediction is None:
        prediction = answer_of(bench, prompt, options["max_tokens"])
    return submit(sequence_id, prompt, prediction=prediction, **options)


def drafts_of(plan):
    return [list(chunk.drafts) for context in plan.contexts for chunk in context.chunks]


def test_right_prediction_gives_several_tokens_a_step_and_the_same_answer():
    bench = make_bench()
    request = predict(bench)
    bench.add(request)
    bench.run()
    assert bench.outcomes[1] == bench.undisturbed(request, 64)
    # The prompt gives the first token; nine a step the others.
    assert len(bench.plans) == 1 + 4


def test_wrong_prediction_costs_no_token_and_is_soon_given_up():
    bench = make_bench(row_cost=0.25)
    request = predict(bench, prediction=[*answer_of(bench)[:1], *range(1000, 1040)])
    bench.add(request)
    bench.run()
    assert bench.outcomes[1] == bench.undisturbed(request, 64)
    assert len(bench.plans) == 30
    assert sum(any(drafts_of(plan)) for plan in bench.plans) <= 3


def test_prediction_is_taken_up_again_behind_an_edit():
    bench = make_bench()
    right = answer_of(bench)
    request = predict(bench, prediction=[*right[:10], 4000, *right[11:]])
    bench.add(request)
    bench.run()
    assert bench.outcomes[1] == bench.undisturbed(request, 64)
    assert len(bench.plans) < 12


def test_repetition_is_guessed_without_a_prediction():
    bench = make_bench(num_vocab=2)  # says little that is new
    request = submit(1, PROMPT, max_tokens=40)
    bench.add(request)
    bench.run()
    assert bench.outcomes[1] == bench.undisturbed(request, 64)
    assert sum(any(drafts_of(plan)) for plan in bench.plans) > 5
    assert len(bench.plans) < 40


def test_outputs_count_what_was_predicted_and_proved_right_or_wrong():
    bench = make_bench()
    right = answer_of(bench)
    bench.add(predict(bench, prediction=[*right[:12], *range(1000, 1020)]))
    outputs = []
    while bench.scheduler.has_work:
        outputs += bench.step()
    # Eight, the one drawn behind them, and two; the first came of the prompt.
    assert sum(output.num_accepted for output in outputs) == 8 + 2
    assert sum(output.num_rejected for output in outputs) > 0
    assert sum(len(output.token_ids) for output in outputs) == 30


@pytest.mark.parametrize(
    "options",
    [
        {"sampling": SamplingParams(repetition_penalty=1.1)},
        {"sampling": SamplingParams(presence_penalty=0.5)},
        {"sampling": SamplingParams(frequency_penalty=0.5)},
        {"num_logprobs": 0},
        {"constraint": Constraint(grammar="{}")},
    ],
)
def test_draws_that_depend_on_the_tokens_before_are_not_guessed(options):
    bench = make_bench()
    bench.add(predict(bench, **options))
    bench.run()
    assert not any(any(drafts_of(plan)) for plan in bench.plans)
    assert bench.outcomes[1].tokens == answer_of(bench)


def test_nothing_is_guessed_where_it_is_turned_off():
    bench = make_bench(max_drafts=0)
    bench.add(predict(bench))
    bench.run()
    assert not any(any(drafts_of(plan)) for plan in bench.plans)


@pytest.mark.parametrize("classes", ["4x64", "1x64,1x512"])
def test_nothing_is_guessed_beside_a_prompt(classes):
    bench = make_bench(classes)
    bench.add(predict(bench))
    bench.step()
    bench.step()
    assert any(drafts_of(bench.plans[-1]))
    bench.add(submit(2, list(range(100, 140))))
    bench.step()
    assert not any(drafts_of(bench.plans[-1]))
    bench.run()
    assert bench.outcomes[1].tokens == answer_of(bench)


def test_rows_that_cost_as_much_as_passes_are_not_spent_beside_others():
    bench = make_bench(row_cost=1.0)
    others = [submit(number, [number, 50, 60], max_tokens=30) for number in (2, 3, 4)]
    for request in (predict(bench), *others):
        bench.add(request)
    bench.run()
    assert not any(any(drafts_of(plan)) for plan in bench.plans)


def test_all_that_repeat_are_guessed_in_the_same_pass():
    bench = make_bench()
    requests = [predict(bench, number, [number, 50, 60]) for number in (1, 2, 3, 4)]
    for request in requests:
        bench.add(request)
    bench.run()
    assert len(bench.plans) < 12
    for request in requests:
        assert bench.outcomes[request.sequence_id] == bench.undisturbed(request, 64)


def test_guesses_keep_no_stream_waiting_beyond_the_target():
    bench = make_bench(row_cost=0.1, target_itl_seconds=2.0)
    requests = [predict(bench, number, [number, 50, 60]) for number in (1, 2)]
    for request in requests:
        bench.add(request)
    bench.run()
    num_rows = [sum(chunk.num_rows for chunk in plan.chunks()) for plan in bench.plans[1:]]
    assert max(num_rows) == 10  # 1 + 10 * 0.1 seconds, and not the 18 that there could be
    assert len(bench.plans) < 12


def test_drafts_of_a_step_stay_within_its_budget():
    bench = make_bench("16x64", max_drafts=8)
    for number in range(1, 13):
        bench.add(predict(bench, number, [number, 50, 60], max_tokens=40))
    bench.run()
    assert max(sum(map(len, drafts_of(plan))) for plan in bench.plans) <= 32
    assert any(any(drafts_of(plan)) for plan in bench.plans)


def test_guesses_end_where_max_tokens_and_the_slot_do():
    bench = make_bench("1x32")
    for max_tokens in (1, 2, 3, 9, None):
        request = submit(max_tokens or 99, PROMPT, max_tokens=max_tokens)
        expected = bench.undisturbed(request, 32)
        bench.add(
            submit(request.sequence_id, PROMPT, max_tokens=max_tokens, prediction=answer_of(bench))
        )
        bench.run()
        assert bench.outcomes[request.sequence_id].tokens == expected.tokens


def test_predicted_end_of_generation_is_not_computed_ahead():
    bench = make_bench()
    [eog] = bench.engine.eog_tokens
    right = answer_of(bench)
    bench.add(predict(bench, prediction=[*right[:5], eog, *right[5:]]))
    bench.run()
    assert all(eog not in drafts for plan in bench.plans for drafts in drafts_of(plan))
    assert bench.outcomes[1].tokens == right


def test_thought_is_closed_at_its_budget_however_far_guesses_reach():
    thinking = ThinkingBudget(max_tokens=7, end_token=3, closing_tokens=(4, 3))
    plain, bench = make_bench(max_drafts=0), make_bench()
    plain.add(submit(1, PROMPT, max_tokens=20, thinking=thinking))
    plain.run()
    expected = plain.outcomes[1]
    bench.add(predict(bench, prediction=expected.tokens, max_tokens=20, thinking=thinking))
    bench.run()
    assert bench.outcomes[1] == expected
    assert len(bench.plans) < len(plain.plans) / 2


def follow(drafter, tokens, added):
    """Let the sequence go on and the drafter see each token when it comes."""
    for token in added:
        tokens.append(token)
        drafter.draft(0)


def test_trust_follows_what_would_have_become_of_guesses_computed_or_not():
    source = list(range(100, 140))
    tokens = make_tokens(source)
    drafter = Drafter(tokens, len(source))
    first = drafter.trust
    follow(drafter, tokens, source[:4])
    assert drafter.trust == first  # so far none was guessed
    follow(drafter, tokens, source[4:12])
    copying = drafter.trust
    assert copying > first
    follow(drafter, tokens, [7, source[13], 7, source[15], 7, source[17], 7])
    assert drafter.trust < copying / 1.2


def test_expected_tokens_are_one_and_those_of_a_run_of_right_guesses():
    drafter = Drafter(make_tokens(PROMPT), len(PROMPT))
    trust = drafter.trust
    assert drafter.expect(0) == pytest.approx(1)
    assert drafter.expect(2) == pytest.approx(1 + trust + trust**2)


def test_prediction_goes_before_what_the_sequence_said():
    source = list(range(100, 120))
    tokens = make_tokens([*source, 0])
    drafter = Drafter(tokens, len(tokens), make_tokens([*source[:8], 500, *source[9:]]))
    follow(drafter, tokens, source[:7])
    assert drafter.draft(3).tolist() == [107, 500, 109]
    follow(drafter, tokens, [107, 108])
    assert drafter.draft(2).tolist() == [109, 110]  # the past's: the prediction was wrong
    follow(drafter, tokens, [109])
    assert drafter.draft(2).tolist() == [110, 111]


def test_of_many_tokens_at_once_nothing_is_learned_but_where_the_text_stands():
    source = list(range(100, 300))
    tokens = make_tokens(source)
    drafter = Drafter(tokens, len(source), make_tokens(source))
    first = drafter.trust
    tokens.extend(source[: MAX_FOLLOWED + 1])
    assert drafter.draft(2).tolist() == source[MAX_FOLLOWED + 1 : MAX_FOLLOWED + 3]
    assert drafter.trust == first


def test_sequence_that_goes_on_elsewhere_is_where_its_prediction_was():
    tokens = make_tokens([*PROMPT, 20, 21, 22])
    drafter = Drafter(tokens, len(PROMPT), make_tokens(list(range(20, 30))))
    assert drafter.draft(2).tolist() == [23, 24]


def test_text_goes_on_behind_an_edit_where_it_was_left():
    source = list(range(100, 120))
    tokens = make_tokens(source)
    drafter = Drafter(tokens, len(source))
    follow(drafter, tokens, source[:9])
    assert drafter.draft(4).tolist() == [109, 110, 111, 112]
    follow(drafter, tokens, [109, 7])  # another word for 110
    assert not drafter.draft(4)
    follow(drafter, tokens, [112])
    assert drafter.draft(3).tolist() == [113, 114, 115]


def test_cost_that_the_warm_up_overestimated_is_found_out():
    bench = make_bench(row_cost=0.2)
    cost = bench.scheduler._speculation._cost
    cost._row_seconds = 0.9
    for number in range(1, 300):
        bench.add(predict(bench, number, [number, 50, 60]))
        bench.run()
    assert cost._row_seconds < 0.5
    # More than are tried whatever they are believed to cost.
    assert sum(any(drafts_of(plan)) for plan in bench.plans[-40:]) > 2


def test_cost_stays_above_nothing_with_an_engine_that_takes_no_time():
    cost = DecodeCost(Costs())
    for _ in range(20_000):
        cost.observe(1, 0.0)
        cost.observe(4, 0.0)
    assert cost.seconds(1, 1) > 0
    assert cost.seconds(1, 4) > 0


def test_cost_follows_the_steps_and_one_that_stalls_changes_little():
    cost = DecodeCost(Costs(pass_seconds=2.0, row_seconds=1.0, lone_seconds=3.0))
    for _ in range(300):
        for num_rows in (1, 2, 5, 9):
            cost.observe(num_rows, 1.5 if num_rows == 1 else 1 + 0.5 * num_rows)
    assert cost.seconds(1, 1) == pytest.approx(1.5, rel=0.01)
    assert cost.seconds(1, 7) == pytest.approx(4.5, rel=0.02)
    assert cost.seconds(2, 7) == pytest.approx(5.5, rel=0.02)
    cost.observe(7, 100.0)
    assert cost.seconds(1, 7) < 7
