import itertools

from hypothesis import given
from hypothesis import strategies as st

from service.runtime.detokenizer import Detokenizer


def detokenize(pieces: list[bytes]) -> list[str]:
    detokenizer = Detokenizer(lambda token: pieces[token])
    return [detokenizer.feed([token]) for token in range(len(pieces))] + [detokenizer.finish()]


def test_character_split_over_tokens_appears_when_it_is_whole():
    assert detokenize([b"a\xc3", b"\xb6", b"b"]) == ["a", "ö", "b", ""]


def test_bytes_that_are_no_character_become_a_replacement():
    assert "".join(detokenize([b"\xff", b"ok"])) == "\ufffdok"


def test_unfinished_character_at_the_end_becomes_a_replacement():
    assert detokenize([b"\xf0\x9f"]) == ["", "\ufffd"]


@given(st.text(), st.lists(st.integers(0, 60)))
def test_any_split_of_the_bytes_gives_the_text(text, cuts):
    data = text.encode()
    borders = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(borders)]
    assert "".join(detokenize(pieces)) == text


@given(st.text())
def test_no_feed_gives_half_a_character(text):
    fed = detokenize([bytes([byte]) for byte in text.encode()])
    assert [part for part in fed if part] == list(text)
