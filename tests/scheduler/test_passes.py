from service.core.plan import Chunk, ContextPlan, Filler, make_tokens
from service.scheduler.passes import count_passes


def context(lens: dict[int, int], fillers: tuple[int, ...] = ()) -> ContextPlan:
    chunks = [Chunk(slot, make_tokens(), 0, length, None) for slot, length in lens.items()]
    return ContextPlan(0, chunks, [Filler(slot, 0) for slot in fillers])


def test_dense_decode_rows_are_one_pass():
    assert count_passes(context({0: 1, 1: 1, 2: 1})) == 1


def test_each_hole_splits_the_pass():
    assert count_passes(context({0: 1, 2: 1, 4: 1})) == 3


def test_filler_bridges_a_hole():
    assert count_passes(context({0: 1, 2: 1}, fillers=(1,))) == 1


def test_prompt_chunk_beside_decode_rows_takes_a_second_pass():
    assert count_passes(context({0: 1, 1: 16, 2: 1})) == 2


def test_equal_prompt_chunks_share_a_pass():
    assert count_passes(context({0: 64, 1: 64})) == 1
