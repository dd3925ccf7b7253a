"""What followed before probably follows again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.plan import make_tokens
from service.scheduler.lookup import find_continuation, find_resumption, unroll


def repeat(tokens, max_len=4, match_len=3):
    text = make_tokens(tokens)
    if len(text) < match_len:
        return []
    start = find_continuation(text, text[-match_len:])
    return [] if start is None else unroll(text, start, max_len).tolist()


def test_text_that_was_there_before_goes_on_as_it_did():
    assert repeat([1, 2, 3, 4, 5, 6, 7, 9, 1, 2, 3]) == [4, 5, 6, 7]


def test_latest_of_several_places_counts():
    assert repeat([1, 2, 3, 4, 0, 1, 2, 3, 5, 0, 1, 2, 3], 1) == [5]


def test_longer_match_tells_places_apart_that_a_shorter_one_does_not():
    long = [11, 12, 13, 14, 15, 1, 2, 3]
    text = [*long, 7, 0, 1, 2, 3, 8, 0, *long]
    assert repeat(text, 1, match_len=8) == [7]
    assert repeat(text, 1, match_len=3) == [8]


def test_loop_goes_round_and_round():
    assert repeat([0, 1, 2, 3, 1, 2, 3], 7) == [1, 2, 3, 1, 2, 3, 1]
    assert repeat([5, 5, 5, 5], 3) == [5, 5, 5]


@pytest.mark.parametrize("tokens", [[], [1], [1, 1], [1, 2, 3], [1, 2, 3, 4, 2, 3]])
def test_text_that_repeats_nothing_tells_nothing(tokens):
    assert repeat(tokens) == []


def test_bytes_that_agree_across_tokens_are_no_match():
    # The bytes of the last three stand in the first four as well, one byte off.
    shifted = [0x01_00_00_00, 0x01_00_00_00, 0x01_00_00_00, 0x7F_00_00_00]
    assert repeat([*shifted, 9, 0x00_01_00_00, 0x00_01_00_00, 0x00_01_00_00]) == []


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 9))
def test_what_is_found_followed_a_match_and_is_as_long_as_asked(tokens, max_len):
    found = repeat(tokens, max_len)
    if found:
        assert len(found) == max_len
        whole = [*tokens, *found]
        places = range(3, len(tokens))
        assert any(
            whole[at - 3 : at] == tokens[-3:]
            and all(whole[at + i] == whole[len(tokens) + i] for i in range(max_len))
            for at in places
        )
    else:
        ends = [tokens[at - 3 : at] for at in range(3, len(tokens))]
        assert len(tokens) <= 3 or tokens[-3:] not in ends


def test_text_is_found_in_another_where_that_goes_on():
    source = make_tokens([1, 2, 3, 4, 5, 2, 3])
    assert find_continuation(source, make_tokens([2, 3])) == 3
    assert find_continuation(source, make_tokens([3, 4, 5])) == 5
    assert find_continuation(source, make_tokens([5, 2, 3])) is None
    assert find_continuation(source, make_tokens([4, 3])) is None


def test_text_is_taken_up_close_to_where_it_was_left():
    source = make_tokens(list(range(10, 30)))
    assert find_resumption(source, 5, 17, 20) == 8
    assert find_resumption(source, 5, 17, 7) is None
    assert find_resumption(source, 5, 14, 20) is None
    assert find_resumption(source, 5, 25, 20) is None
