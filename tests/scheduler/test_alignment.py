"""A text that copies is followed through its edits."""

from service.core.plan import make_tokens
from service.scheduler.alignment import PATIENCE, Alignment

SOURCE = list(range(100, 130))


def follow(alignment, tokens):
    return [alignment.follow(token) for token in tokens]


def test_source_is_followed_token_by_token():
    alignment = Alignment(make_tokens(SOURCE), start=0)
    assert follow(alignment, SOURCE[:5]) == [True] * 5
    assert alignment.next == 5


def test_nothing_is_expected_behind_the_end_of_the_source():
    alignment = Alignment(make_tokens(SOURCE), start=0)
    assert follow(alignment, SOURCE) == [True] * 30
    assert alignment.next is None
    assert alignment.follow(7) is None


def test_text_goes_on_behind_an_edit_where_it_was_left():
    replaced = [*SOURCE[:9], 7, *SOURCE[10:14]]
    inserted = [*SOURCE[:9], 7, *SOURCE[9:14]]
    left_out = [*SOURCE[:9], *SOURCE[11:14]]
    for text in (replaced, inserted, left_out):
        alignment = Alignment(make_tokens(SOURCE), start=0)
        verdicts = follow(alignment, text)
        assert verdicts.count(False) == 1
        assert alignment.next == 14


def test_text_that_does_not_come_back_is_soon_given_up():
    alignment = Alignment(make_tokens(SOURCE), start=0)
    follow(alignment, [*SOURCE[:9], 7, *range(PATIENCE), SOURCE[9]])
    assert alignment.next is None


def test_text_of_which_nothing_is_known_is_found_by_what_it_said_last():
    text = make_tokens([1, 2, 3, *SOURCE[10:14]])
    alignment = Alignment(make_tokens(SOURCE))
    assert follow(alignment, text) == [None] * 7
    alignment.search(text, 3)
    assert alignment.next is None  # too little to go by
    alignment.search(text, 4)
    assert alignment.next == 14


def test_behind_an_edit_only_a_long_match_is_believed_elsewhere():
    far = list(range(200, 210))
    alignment = Alignment(make_tokens([*SOURCE, *far]), start=0)
    follow(alignment, [*SOURCE[:9], far[0]])
    alignment.search(make_tokens([*SOURCE[:9], *far[:7]]), 16)
    assert alignment.next is None
    alignment.search(make_tokens([*SOURCE[:9], *far[:8]]), 17)
    assert alignment.next == 38


def test_own_past_is_a_source_that_grows():
    text = make_tokens([1, 2, 3, 4, 5, 1, 2, 3, 4])
    alignment = Alignment(text)
    alignment.search(text, 9)
    assert alignment.next == 4
    for token in (5, 1, 2, 3, 4, 5):
        text.append(token)
        assert alignment.follow(token) is True


def test_own_past_is_not_what_has_come_since():
    text = make_tokens([1, 1, 1, 1, 1])
    alignment = Alignment(text)
    alignment.search(text, 5)
    text.extend([9, 2, 3, 4])
    verdicts = [alignment.follow(text[place], place) for place in range(5, 9)]
    assert verdicts == [False, None, None, None]
    assert alignment.next is None
