"""A sequence that a worker died with goes on elsewhere as if nothing had happened."""

import msgspec
import pytest

from service.core.messages import Submit
from service.core.request import ThinkingBudget
from service.scheduler.sequence import Sequence
from tests.scheduler.builders import Bench, submit

THINKING = ThinkingBudget(max_tokens=6, end_token=7, closing_tokens=(8, 7, 9))
LONG = list(range(1000, 1040))


def resubmit(request: Submit, generated: list[int]) -> Submit:
    return msgspec.structs.replace(
        request, prompt=[*request.prompt, *generated], num_generated=len(generated)
    )


def answer(request: Submit, *, num_vocab: int = 49152) -> tuple[list[int], str | None]:
    bench = Bench("2x64,1x256", num_vocab=num_vocab)
    bench.add(request)
    bench.run()
    outcome = bench.outcomes[request.sequence_id]
    return outcome.tokens, outcome.finish_reason


@pytest.mark.parametrize("num_generated", range(30))
def test_sequence_ends_where_it_would_have_ended_wherever_it_was_interrupted(num_generated):
    request = submit(1, [5, 6, 7], max_tokens=30)
    tokens, reason = answer(request)
    rest = answer(resubmit(request, tokens[:num_generated]))
    assert rest == (tokens[num_generated:], reason)


@pytest.mark.parametrize("num_generated", range(20))
def test_thought_is_closed_where_it_would_have_been_closed(num_generated):
    # Few tokens, so that some thoughts end by themselves within the budget.
    for first in range(10):
        request = submit(1, [first, 6], max_tokens=20, thinking=THINKING)
        tokens, reason = answer(request, num_vocab=20)
        steps = [*range(6), *range(9, len(tokens))]  # closing tokens come in one step
        if num_generated < len(tokens) and num_generated in steps:
            rest = answer(resubmit(request, tokens[:num_generated]), num_vocab=20)
            assert rest == (tokens[num_generated:], reason)


def test_tokens_that_were_generated_elsewhere_are_output_to_penalties_and_min_tokens():
    request = submit(1, LONG, max_tokens=30)
    sequence = Sequence(resubmit(request, [1, 2, 3]), max_len=256)
    assert (sequence.num_prompt_tokens, sequence.num_output, sequence.num_left) == (40, 3, 27)


def test_slot_is_chosen_for_what_was_generated_as_well():
    request = submit(1, LONG, max_tokens=100)
    tokens, reason = answer(request)
    assert answer(resubmit(request, tokens[:50])) == (tokens[50:], reason)
