import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.chat.json_scanner import JsonScanner, MalformedJsonError

CHARS = st.text(st.sampled_from('{}[]",:\\/bu0019-+.eEtrufalsn \n\té'), max_size=14)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def accepts(text):
    """Whether the text is an object or array to its last character."""
    scanner = JsonScanner()
    try:
        for char in text:
            scanner.push(char)
    except MalformedJsonError:
        return False
    return scanner.complete


def is_json(text):
    try:
        return isinstance(json.loads(text), (dict, list))
    except ValueError:
        return False


@given(VALUES, st.sampled_from([None, 1]), st.booleans())
def test_accepts_what_json_writes(value, indent, ensure_ascii):
    assert accepts(json.dumps([value], indent=indent, ensure_ascii=ensure_ascii))


@given(CHARS)
def test_agrees_with_the_standard_library(text):
    for document in (f"[{text}]", f'{{"a":{text}}}', f'["{text}"]'):
        assert accepts(document) == is_json(document)


@pytest.mark.parametrize(
    "text", ["[01]", "[1.]", "[.5]", "[+1]", "[NaN]", "[1,]", '{"a":1,}', "{1:2}"]
)
def test_refuses_what_only_lax_parsers_take(text):
    assert not accepts(text)


def test_stops_after_the_value():
    scanner = JsonScanner()
    for char in "[1]":
        scanner.push(char)
    with pytest.raises(MalformedJsonError):
        scanner.push("[")
