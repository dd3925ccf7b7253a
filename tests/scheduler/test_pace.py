import pytest

from service.scheduler.budget import StepBudget
from service.scheduler.pace import GOOD_CHUNK, MIN_CHUNK, OVERDRAFT, Pace


def pace() -> Pace:
    return Pace(target_seconds=0.1, max_tokens=256)


def fit(learned: Pace, depth: int = 0) -> int:
    """Tokens of a long prompt that a step computes beside running streams."""
    return StepBudget(256, pace=learned, seconds=learned.leave()).take(9999, depth=depth, least=0)


def test_before_anything_is_known_a_prompt_goes_in_small_chunks():
    assert fit(pace()) == MIN_CHUNK


def test_chunk_fills_what_decoding_leaves_of_the_target():
    learned = pace()
    learned.observe(num_decode=4, num_prompt=0, seconds=0.02)
    learned.observe(num_decode=4, num_prompt=40, seconds=0.06)
    assert fit(learned) == pytest.approx(80, abs=1)


def test_costlier_prompt_tokens_make_the_chunks_smaller():
    learned = pace()
    learned.observe(num_decode=0, num_prompt=100, seconds=0.1)
    before = fit(learned)
    for _ in range(20):  # the prompt gets deeper
        learned.observe(num_decode=0, num_prompt=100, seconds=0.4)
    assert fit(learned) == pytest.approx(before / 4, abs=1)


def test_prompt_goes_on_when_decoding_alone_takes_longer_than_the_target():
    learned = pace()
    learned.observe(num_decode=32, num_prompt=0, seconds=0.5)
    learned.observe(num_decode=32, num_prompt=8, seconds=0.51)
    assert fit(learned) == MIN_CHUNK


@pytest.mark.parametrize(
    ("token_seconds", "num_tokens"),
    [(4e-3, 20), (6e-3, GOOD_CHUNK), (10e-3, 13), (15e-3, 8), (100e-3, MIN_CHUNK)],
)
def test_small_chunk_may_exceed_the_target_by_half(token_seconds, num_tokens):
    learned = pace()
    learned.observe(num_decode=4, num_prompt=0, seconds=0.02)
    learned.observe(num_decode=4, num_prompt=10, seconds=0.02 + 10 * token_seconds)
    assert fit(learned) == num_tokens


def test_small_chunk_is_shared_by_the_prompts_of_a_step():
    learned = pace()
    learned.observe(num_decode=4, num_prompt=0, seconds=0.02)
    learned.observe(num_decode=4, num_prompt=10, seconds=0.02 + 10 * 6e-3)
    budget = StepBudget(256, pace=learned, seconds=learned.leave())
    assert [budget.take(8, depth=0, least=0) for _ in range(3)] == [8, GOOD_CHUNK - 8, 0]


def test_what_is_no_prompt_keeps_the_target():
    learned = pace()
    learned.observe(num_decode=0, num_prompt=10, seconds=10 * 8e-3)
    assert learned.allow() == 12
    assert learned.allow(busy_seconds=0.09) == MIN_CHUNK


def test_chunk_never_exceeds_the_step():
    learned = pace()
    learned.observe(num_decode=0, num_prompt=100, seconds=0.0001)
    assert fit(learned) == 256


DECODE_SECONDS = 0.016
TOKEN_SECONDS = 0.9e-3
DEPTH_SECONDS = 1.45e-6
"""Of SmolLM2 on two cores: a prompt token over 3,000 cells costs six times one over none."""


def gaps_beside(pace: Pace, prompts: list[tuple[int, int]]) -> list[float]:
    """Gaps of running streams while prompts are computed, each (cached, new) tokens long."""
    gaps: list[float] = []
    for cached, new in prompts:
        pace.observe(num_decode=4, num_prompt=0, seconds=DECODE_SECONDS)
        depth, end = cached, cached + new
        while depth < end:
            num = min(fit(pace, depth), end - depth)
            seconds = DECODE_SECONDS + num * (TOKEN_SECONDS + DEPTH_SECONDS * (depth + num / 2))
            pace.observe(num_decode=4, num_prompt=num, seconds=seconds, depth=depth)
            gaps.append(seconds)
            depth += num
    return gaps


def test_gap_stays_near_the_target_while_a_prompt_gets_deeper():
    gaps = gaps_beside(pace(), [(0, 3000)])
    assert max(gaps) <= 1.3 * 0.1
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(0.1, rel=0.1)


def test_gap_stays_below_twice_the_target_however_deep_a_prompt_is():
    assert max(gaps_beside(pace(), [(0, 8000)])) <= (1 + OVERDRAFT + 0.2) * 0.1


def test_next_turn_of_a_long_conversation_is_known_to_be_costly_after_short_prompts():
    learned = pace()
    gaps_beside(learned, [(0, 3000)])
    short = [(0, 100)] * 50
    gaps = gaps_beside(learned, [*short, (3000, 400), *short, (6000, 400)])
    assert max(gaps) <= (1 + OVERDRAFT + 0.2) * 0.1


def test_costs_that_seem_negative_are_none():
    learned = pace()
    learned.observe(num_decode=4, num_prompt=0, seconds=0.05)
    for depth in (0, 5000):
        learned.observe(num_decode=4, num_prompt=50, seconds=0.01, depth=depth)
    assert learned.cost(0) == learned.cost(10_000) == 0
    assert fit(learned) == 256


def test_deep_prompts_that_become_cheaper_do_not_make_short_ones_seem_free():
    """Other work slowed the machine down while a prompt was deep, and went away."""
    learned = pace()
    for depth, seconds in ((0, 0.9e-3), (3000, 26e-3), (0, 0.9e-3), (3000, 5.2e-3)):
        for _ in range(30):
            learned.observe(num_decode=0, num_prompt=20, seconds=20 * seconds, depth=depth)
    assert fit(learned) * 0.9e-3 <= 2 * 0.1
