from hypothesis import given
from hypothesis import strategies as st

from service.core.plan import make_tokens
from service.kvcache.prefix import common_prefix_len

tokens = st.lists(st.integers(0, 1), max_size=300)


@given(tokens, tokens, tokens)
def test_length_is_that_of_the_shared_beginning(shared, a, b):
    left, right = shared + a, shared + b
    expected = 0
    while expected < min(len(left), len(right)) and left[expected] == right[expected]:
        expected += 1
    assert common_prefix_len(make_tokens(left), make_tokens(right)) == expected
