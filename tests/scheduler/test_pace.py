import pytest

from service.scheduler.pace import MIN_CHUNK, Pace


def pace() -> Pace:
    return Pace(target_seconds=0.1, max_tokens=256)


def test_before_anything_is_known_a_prompt_goes_in_small_chunks():
    assert pace().allow() == MIN_CHUNK


def test_chunk_fills_what_decoding_leaves_of_the_target():
    learned = pace()
    learned.observe(num_decode=4, num_prompt=0, seconds=0.02)
    learned.observe(num_decode=4, num_prompt=40, seconds=0.06)
    assert learned.allow() == pytest.approx(80, abs=1)


def test_costlier_prompt_tokens_make_the_chunks_smaller():
    learned = pace()
    learned.observe(num_decode=0, num_prompt=100, seconds=0.1)
    before = learned.allow()
    for _ in range(20):  # the prompt gets deeper
        learned.observe(num_decode=0, num_prompt=100, seconds=0.4)
    assert learned.allow() == pytest.approx(before / 4, abs=1)


def test_prompt_goes_on_when_decoding_alone_takes_longer_than_the_target():
    learned = pace()
    learned.observe(num_decode=32, num_prompt=0, seconds=0.5)
    learned.observe(num_decode=32, num_prompt=8, seconds=0.51)
    assert learned.allow() == MIN_CHUNK


def test_chunk_never_exceeds_the_step():
    learned = pace()
    learned.observe(num_decode=0, num_prompt=100, seconds=0.0001)
    assert learned.allow() == 256
