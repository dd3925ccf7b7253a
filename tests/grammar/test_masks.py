"""A mask allows exactly the tokens that some answer goes on with; held against trying each."""

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.core.plan import Draw, make_tokens
from service.core.request import Constraint
from service.core.sampling import SamplingParams
from service.engine.constraints import Constraints
from service.grammar.forms import context_free
from tests.grammar.builders import TinyVocabulary

VOCABULARY = TinyVocabulary(["a", "b", "c", "ab", "ba", "abc", "cc", "bca", "aaaa"])
LANGUAGE = 4
"""Longest answer."""

pieces = st.recursive(
    st.sampled_from(["a", "b", "c", "ab"]),
    lambda inner: (
        st.builds("({})?".format, inner)
        | st.builds("({}|{})".format, inner, inner)
        | st.builds("{}{}".format, inner, inner)
        | st.builds("({}){{0,2}}".format, inner)
    ),
    max_leaves=6,
)


def words(longest):
    level = [""]
    for _ in range(longest + 1):
        yield from level
        level = [word + letter for word in level for letter in "abc"]


@given(pieces)
def test_masks_equal_brute_force(pattern):
    answers = {word for word in words(LANGUAGE) if re.fullmatch(pattern, word)}
    # The rest of the language is cut off, so that it is finite; nothing is spelled ahead.
    bounded = "|".join(sorted(answers)) or "(?:)"
    grammar = context_free(f'%llguidance {{"no_forcing": true}}\nstart: /({bounded})?/')
    answers.add("")
    constraints = Constraints(VOCABULARY, num_threads=1)
    for text in {answer[:end] for answer in answers for end in range(len(answer) + 1)}:
        assert allowed(constraints, grammar, text) == {
            token for token in range(VOCABULARY.num_tokens) if continues(text, token, answers)
        }
    constraints.close()


def continues(text, token, answers) -> bool:
    if token in VOCABULARY.eog_tokens:
        return text in answers
    longer = text + VOCABULARY.token_bytes(token).decode()
    return any(answer.startswith(longer) for answer in answers)


def allowed(constraints, grammar, text) -> set[int]:
    tokens = make_tokens(VOCABULARY.tokenize(text, parse_special=False))
    draw = Draw(SamplingParams(), tokens, 0, constraint=Constraint(grammar=grammar))
    logits = np.zeros((1, VOCABULARY.num_tokens), np.float32)
    constraints.start([draw]).apply(logits, [draw])
    return set(np.flatnonzero(logits[0] == 0).tolist())
