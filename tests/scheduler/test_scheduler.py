import msgspec

from service.core.request import ThinkingBudget
from service.scheduler.config import SchedulerConfig
from service.scheduler.scheduler import MIN_SHARED
from tests.scheduler.builders import Bench, submit


def prompt(length: int, start: int = 1000) -> list[int]:
    return list(range(start, start + length))


def chunk_lens(bench: Bench) -> list[list[int]]:
    """Tokens of each chunk of the last plan, by context."""
    return [[chunk.num_tokens for chunk in context.chunks] for context in bench.plans[-1].contexts]


def test_prompt_is_computed_in_chunks_of_the_step_budget():
    bench = Bench("1x256", config=SchedulerConfig(step_tokens=32, growth_tokens=8))
    bench.add(submit(1, prompt(70)))
    for expected in (32, 32, 6):
        bench.step()
        assert chunk_lens(bench) == [[expected]]


def test_first_token_comes_with_the_last_chunk_of_the_prompt():
    bench = Bench("1x256", config=SchedulerConfig(step_tokens=32, growth_tokens=8))
    bench.add(submit(1, prompt(40)))
    bench.step()
    assert bench.outcomes[1].tokens == []
    bench.step()
    assert len(bench.outcomes[1].tokens) == 1


def test_running_sequences_decode_before_prompts_get_the_smaller_budget():
    bench = Bench("4x64,1x256")
    bench.add(submit(1, prompt(4)))
    for _ in range(2):  # the second teaches what decoding costs
        bench.step()
    bench.add(submit(2, prompt(50, 2000)))
    bench.step()
    assert chunk_lens(bench) == [[1, 12]]


def test_prompt_beyond_the_budget_still_gets_a_token_beside_decoding_neighbours():
    bench = Bench("4x64")
    bench.add(submit(1, prompt(4)))
    for _ in range(2):
        bench.step()
    for sequence_id in (2, 3):
        bench.add(submit(sequence_id, prompt(40, 1000 * sequence_id)))
    bench.step()
    assert chunk_lens(bench) == [[1, 12, 1]]


def test_prompts_are_served_first_come_first_served():
    bench = Bench("4x64", config=SchedulerConfig(step_tokens=48, growth_tokens=8))
    for sequence_id in (1, 2):
        bench.add(submit(sequence_id, prompt(40, 1000 * sequence_id)))
    bench.step()
    assert chunk_lens(bench) == [[40, 8]]


def test_sequence_waits_while_every_slot_is_busy_and_starts_when_one_is_free():
    bench = Bench("1x64")
    bench.add(submit(1, prompt(4), max_tokens=3))
    bench.add(submit(2, prompt(4, 2000), max_tokens=3))
    bench.step()
    assert (bench.scheduler.num_running, bench.scheduler.num_waiting) == (1, 1)
    bench.run()
    assert len(bench.outcomes[2].tokens) == 3


def test_idle_longer_slot_is_lent_to_a_short_sequence():
    bench = Bench("1x64,1x256")
    for sequence_id in (1, 2):
        bench.add(submit(sequence_id, prompt(4, 1000 * sequence_id)))
    bench.step()
    assert bench.scheduler.num_running == 2


def test_longer_slot_is_not_lent_while_a_long_sequence_waits_for_it():
    bench = Bench("1x64,1x256")
    bench.add(submit(1, prompt(100)))
    bench.add(submit(2, prompt(100, 2000)))
    bench.add(submit(3, prompt(4, 3000), max_tokens=60))
    bench.add(submit(4, prompt(4, 4000), max_tokens=2))
    bench.step()
    waiting_for_long = bench.scheduler.num_waiting
    assert waiting_for_long == 2
    bench.run()
    assert all(outcome.finish_reason for outcome in bench.outcomes.values())


def test_sequence_that_outgrows_its_slot_moves_up_and_recomputes_nothing():
    bench = Bench("2x32,1x128")
    request = submit(1, prompt(20), max_tokens=60)
    bench.add(request)
    bench.run()
    assert bench.outcomes[1].tokens == bench.undisturbed(request, 128).tokens
    computed = sum(chunk.num_tokens for plan in bench.plans for chunk in plan.chunks())
    assert computed == 20 + 60 - 1
    assert bench.scheduler.num_preemptions == 1


def test_sequence_that_outgrows_its_slot_waits_parked_while_no_longer_one_is_free():
    bench = Bench("2x32,1x128")
    bench.add(submit(1, prompt(60), max_tokens=30))
    bench.add(submit(2, prompt(20, 2000), max_tokens=40))
    bench.run()
    assert (
        bench.outcomes[2].tokens
        == bench.undisturbed(submit(2, prompt(20, 2000), max_tokens=40), 128).tokens
    )


def test_parked_sequence_resumes_before_new_arrivals():
    bench = Bench("2x32,1x128")
    bench.add(submit(1, prompt(60), max_tokens=30))
    bench.add(submit(2, prompt(20, 2000), max_tokens=40))
    while bench.scheduler.num_preemptions == 0:
        bench.step()
    bench.add(submit(3, prompt(60, 3000), max_tokens=30))
    while bench.outcomes[2].finish_reason is None:
        bench.step()
    assert bench.outcomes[3].tokens == []


def test_generation_ends_with_length_at_the_longest_slots_end():
    bench = Bench("1x64")
    bench.add(submit(1, prompt(60), max_tokens=None))
    bench.run()
    assert bench.outcomes[1].finish_reason == "length"
    assert len(bench.outcomes[1].tokens) == 4


def test_end_of_generation_token_ends_with_stop_and_is_not_shown():
    bench = Bench("1x256", num_vocab=7)
    bench.add(submit(1, [3, 4, 5], max_tokens=200))
    bench.run()
    assert bench.outcomes[1].finish_reason == "stop"
    assert 2 not in bench.outcomes[1].tokens


def test_finished_sequence_leaves_its_tokens_for_the_next_turn():
    bench = Bench("2x64")
    first = submit(1, prompt(20), max_tokens=8)
    bench.add(first)
    bench.run()
    history = prompt(20) + bench.outcomes[1].tokens
    bench.add(submit(2, [*history, 5, 6], max_tokens=4))
    bench.run()
    # All but the last token drawn, which was never computed.
    assert bench.outcomes[2].num_cached == len(history) - 1


def run_with_a_hole(bench):
    """Three sequences, of which the middle one ends first."""
    for sequence_id, max_tokens in ((1, 40), (2, 2), (3, 40)):
        bench.add(submit(sequence_id, prompt(4, 1000 * sequence_id), max_tokens=max_tokens))
    while bench.outcomes[2].finish_reason is None:
        bench.step()
    bench.step()
    (context,) = bench.plans[-1].contexts
    return [chunk.slot for chunk in context.chunks], [filler.slot for filler in context.fillers]


def test_sequence_is_moved_into_a_hole_where_copying_costs_less_than_bridging():
    slots, fillers = run_with_a_hole(Bench("3x64"))
    assert slots[1] - slots[0] == 1
    assert fillers == []


def test_hole_is_bridged_where_copying_costs_more():
    bench = Bench("3x64")
    bench.allocator.costs.save_seconds = 1.0
    assert run_with_a_hole(bench) == ([0, 2], [1])


def test_hole_stays_where_one_more_pass_costs_less_than_filler_rows():
    bench = Bench("3x64")
    bench.allocator.costs.save_seconds = 1.0
    bench.allocator.costs.pass_seconds = bench.allocator.costs.row_seconds / 2
    assert run_with_a_hole(bench) == ([0, 2], [])


def test_aborted_sequence_frees_its_slot_before_the_next_step():
    bench = Bench("1x64")
    bench.add(submit(1, prompt(4), max_tokens=50))
    bench.step()
    assert bench.scheduler.abort(1)
    assert not bench.scheduler.has_work
    assert not bench.scheduler.abort(1)


def test_aborted_sequence_leaves_the_queue():
    bench = Bench("1x64")
    for sequence_id in (1, 2):
        bench.add(submit(sequence_id, prompt(4), max_tokens=50))
    bench.step()
    assert bench.scheduler.abort(2)
    assert bench.scheduler.num_waiting == 0


def test_thought_that_spends_its_budget_is_closed_and_generation_goes_on():
    bench = Bench("1x256")
    budget = ThinkingBudget(max_tokens=3, end_token=77, closing_tokens=(70, 77, 71))
    bench.add(submit(1, prompt(4), max_tokens=10, thinking=budget))
    bench.run()
    tokens = bench.outcomes[1].tokens
    assert tokens[3:6] == [70, 77, 71]
    assert len(tokens) == 10


def test_closing_a_thought_keeps_within_max_tokens():
    bench = Bench("1x256")
    budget = ThinkingBudget(max_tokens=3, end_token=77, closing_tokens=(70, 77, 71))
    bench.add(submit(1, prompt(4), max_tokens=4, thinking=budget))
    bench.run()
    assert len(bench.outcomes[1].tokens) == 4
    assert bench.outcomes[1].finish_reason == "length"


def test_logprobs_go_with_drawn_tokens_of_who_asked():
    bench = Bench("4x256")
    budget = ThinkingBudget(max_tokens=2, end_token=77, closing_tokens=(70, 77))
    asking = submit(1, prompt(4), max_tokens=6, thinking=budget)
    bench.add(msgspec.structs.replace(asking, num_logprobs=1))
    bench.add(submit(2, prompt(4, 2000), max_tokens=6))
    pairs = []
    while bench.scheduler.has_work:
        for output in bench.step():
            if output.sequence_id == 1 and output.token_ids:
                assert output.logprobs is not None
                pairs += zip(output.token_ids, output.logprobs, strict=True)
            else:
                assert output.logprobs is None
    assert [token for token, _ in pairs] == bench.outcomes[1].tokens
    assert [token for token, logprobs in pairs if logprobs is None] == [70, 77]
    assert all(logprobs.top == [(token, 0.0)] for token, logprobs in pairs if logprobs is not None)


def shared_prompts(count: int, shared: int = 150) -> list[list[int]]:
    return [[*prompt(shared), *prompt(6, 5000 * number)] for number in range(1, count + 1)]


def test_prefix_that_several_share_is_computed_once():
    bench = Bench("8x256")
    requests = [submit(n, tokens, max_tokens=4) for n, tokens in enumerate(shared_prompts(8))]
    for request in requests:
        bench.add(request)
    bench.run()
    assert [bench.outcomes[request.sequence_id].num_cached for request in requests] == [
        0,
        *[150] * 7,
    ]
    computed = sum(chunk.num_tokens for plan in bench.plans for chunk in plan.chunks())
    assert computed == 150 + 8 * (6 + 4 - 1)
    for request in requests:
        expected = bench.undisturbed(request, 256).tokens
        assert bench.outcomes[request.sequence_id].tokens == expected


def test_followers_of_an_aborted_provider_choose_a_new_one_among_themselves():
    bench = Bench("4x256")
    for n, tokens in enumerate(shared_prompts(4)):
        bench.add(submit(n, tokens, max_tokens=4))
    bench.step()
    assert (bench.scheduler.num_running, bench.scheduler.num_waiting) == (1, 3)
    bench.scheduler.abort(0)
    bench.run()
    cached = sorted(bench.outcomes[n].num_cached for n in (1, 2, 3))
    assert cached[1:] == [150, 150]


def test_request_that_shares_nothing_passes_those_that_wait_for_a_prefix():
    bench = Bench("4x256")
    for n, tokens in enumerate(shared_prompts(2)):
        bench.add(submit(n, tokens, max_tokens=4))
    bench.add(submit(9, prompt(6, 9000), max_tokens=4))
    bench.step()
    assert {sequence.id for sequence in bench.scheduler.running} == {0, 9}


def test_prefix_of_another_tenant_is_neither_waited_for_nor_reused():
    bench = Bench("4x256")
    for n, tokens in enumerate(shared_prompts(2)):
        bench.add(submit(n, tokens, max_tokens=4, tenant=str(n)))
    bench.step()
    assert bench.scheduler.num_running == 2
    bench.run()
    assert [bench.outcomes[n].num_cached for n in (0, 1)] == [0, 0]


def test_followers_are_at_most_as_many_as_slots_and_the_rest_stay_queued():
    bench = Bench("4x256")
    for n, tokens in enumerate(shared_prompts(30)):
        bench.add(submit(n, tokens, max_tokens=4))
    bench.step()
    assert len(bench.scheduler._followers) == 4
    assert (bench.scheduler.num_running, bench.scheduler.num_waiting) == (1, 29)
    bench.run()
    # One that comes back to the head when little is left to wait for computes that little.
    assert all(bench.outcomes[n].num_cached > 150 - MIN_SHARED for n in range(1, 30))


def test_aborted_follower_is_forgotten():
    bench = Bench("4x256")
    for n, tokens in enumerate(shared_prompts(2)):
        bench.add(submit(n, tokens, max_tokens=4))
    bench.step()
    assert bench.scheduler.abort(1)
    assert bench.scheduler.num_waiting == 0
