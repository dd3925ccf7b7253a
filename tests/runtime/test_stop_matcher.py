from hypothesis import given, settings
from hypothesis import strategies as st

from service.runtime.stop_matcher import StopMatcher


def match(stops: tuple[str, ...], parts: list[str]) -> tuple[list[str], bool]:
    """What each feed released, with what the end released, and whether a stop was found."""
    matcher = StopMatcher(stops)
    released: list[str] = []
    for part in parts:
        text, is_stopped = matcher.feed(part)
        released.append(text)
        if is_stopped:
            return released, True
    return [*released, matcher.finish()], False


def test_text_before_the_stop_string_is_released_and_nothing_of_it():
    assert match(("END",), ["one END two"]) == (["one "], True)


def test_stop_string_split_over_feeds_is_found():
    assert match(("END",), ["one E", "N", "D two"]) == (["one ", "", ""], True)


def test_beginning_that_leads_nowhere_is_released():
    assert match(("END",), ["one E", "N", "gland"]) == (["one ", "", "ENgland", ""], False)


def test_tail_that_could_have_become_a_stop_string_is_released_at_the_end():
    assert match(("END",), ["the E"]) == (["the ", "E"], False)


def test_stop_string_that_is_complete_first_wins_however_the_text_is_split():
    assert match(("a", "baa"), ["baa"]) == match(("a", "baa"), ["ba", "a"]) == (["b"], True)


def test_earliest_of_several_stop_strings_wins():
    assert match(("two", "one"), ["zero one two"]) == (["zero "], True)


def test_without_stop_strings_everything_passes_at_once():
    assert match((), ["a", "b"]) == (["a", "b", ""], False)


@settings(max_examples=1000)
@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.text("abc", max_size=5), max_size=12),
)
def test_any_split_gives_the_text_up_to_the_first_stop_string(stops, parts):
    text = "".join(parts)
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    released, is_stopped = match(tuple(stops), parts)
    assert is_stopped == bool(ends)
    first = [stop for stop in stops if ends and text[: min(ends)].endswith(stop)]
    expected = text[: min(ends) - max(map(len, first))] if ends else text
    assert "".join(released) == expected
