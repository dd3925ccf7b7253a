from hypothesis import given
from hypothesis import strategies as st

from service.core.plan import make_tokens
from service.kvcache.prefix import common_prefix_len
from service.kvcache.tree import Path, PrefixTree


def tree():
    return PrefixTree(lambda _head, _tail: None)


def path(tokens, label="", num_public=0):
    return Path(label, make_tokens(list(tokens)), num_public)


def insert(prefixes, run):
    end = prefixes.insert(run)
    assert end is not None
    return end


def match_len(prefixes, wanted):
    return max(prefixes.match(wanted).ends.values(), default=0)


def test_longest_common_prefix_of_all_runs_is_found():
    prefixes = tree()
    insert(prefixes, path([1, 2, 3, 4]))
    insert(prefixes, path([1, 2, 9, 9, 9]))
    assert match_len(prefixes, path([1, 2, 9, 9, 5])) == 4
    assert match_len(prefixes, path([7])) == 0


def test_node_is_split_where_runs_part_and_ends_keep_their_identity():
    splits = []
    prefixes = PrefixTree(lambda head, tail: splits.append((head, tail)))
    end = insert(prefixes, path([1, 2, 3, 4]))
    other = insert(prefixes, path([1, 2, 9]))
    ((head, tail),) = splits
    assert tail is end
    assert (head.start, list(head.tokens)) == (0, [1, 2])
    assert (tail.start, list(tail.tokens)) == (2, [3, 4])
    assert tail.parent is other.parent is head


def test_run_that_continues_another_adds_only_what_is_new():
    prefixes = tree()
    first = insert(prefixes, path([1, 2]))
    longer = insert(prefixes, path([1, 2, 3]))
    assert longer.parent is first
    assert list(longer.tokens) == [3]


def test_runs_of_other_labels_are_never_met():
    prefixes = tree()
    insert(prefixes, path([1, 2, 3], label="a"))
    assert match_len(prefixes, path([1, 2, 3], label="b")) == 0


def test_public_prefix_is_met_by_all_labels_and_nothing_after_it():
    prefixes = tree()
    insert(prefixes, path([1, 2, 3, 4, 5], label="a", num_public=3))
    assert match_len(prefixes, path([1, 2, 3, 4, 5], label="b", num_public=3)) == 3
    assert match_len(prefixes, path([1, 2, 3, 4, 5], label="a", num_public=3)) == 5


def test_tokens_of_a_longer_public_prefix_are_not_taken_for_ones_own():
    prefixes = tree()
    insert(prefixes, path([1, 2, 3, 4], num_public=4))
    assert match_len(prefixes, path([1, 2, 3, 4], label="a", num_public=2)) == 2


def test_match_says_how_much_of_another_run_is_shared():
    prefixes = tree()
    ends = [prefixes.insert(path(run)) for run in ([1, 2, 3, 4], [1, 2, 8], [5])]
    match = prefixes.match(path([1, 2, 3, 9]))
    assert [match.shared_len(end) for end in ends] == [3, 2, 0]


runs = st.lists(
    st.tuples(st.lists(st.integers(0, 2), max_size=8), st.sampled_from("ab")),
    max_size=12,
)


@given(runs=runs, wanted=st.lists(st.integers(0, 2), max_size=8), label=st.sampled_from("ab"))
def test_tree_finds_what_comparing_with_every_run_finds(runs, wanted, label):
    prefixes = tree()
    num_public = 2
    for tokens, other in runs:
        prefixes.insert(path(tokens, other, num_public))
    expected = 0
    for tokens, other in runs:
        common = common_prefix_len(make_tokens(tokens), make_tokens(wanted))
        expected = max(expected, common if other == label else min(common, num_public))
    assert match_len(prefixes, path(wanted, label, num_public)) == expected
